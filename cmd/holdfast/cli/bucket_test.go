package cli

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"holdfast.dev/holdfast/airgap"
	"holdfast.dev/holdfast/bundles/backup"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/node"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/s3/s3test"
	"holdfast.dev/holdfast/overlays"
)

// The authority of a bucket is an input that the lock knows, and its
// certificates are in the release, without what is beside them in the file.
func TestBucketInRelease(t *testing.T) {
	authority, _ := s3test.Certificates(t)
	b := imageBuilder(t)
	b.dir = t.TempDir()
	must(t, backup.GenerateKey(b.dir))
	for name, text := range map[string]string{"trust/policy.json": "{}", "trust/ca.pem": "of the storage box\n" + authority} {
		must(t, os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o644))
	}
	b.in.site = overlays.Site{Backups: overlays.Backups{EveryHours: 24, Keep: 7, To: "s3://10.0.2.9/backups", Authority: "trust/ca.pem", Region: "site-1"}}
	must(t, b.in.localFiles(b.dir))
	if !slices.ContainsFunc(b.in.request.Files, func(f airgap.File) bool { return f.Name == "trust/ca.pem" }) {
		t.Errorf("the inputs are %+v", b.in.request.Files)
	}
	c, err := b.nodeConfig(nil, nil)
	must(t, err)
	want := node.Backups{EveryHours: 24, Keep: 7, To: "s3://10.0.2.9/backups", Authority: authority, Region: "site-1"}
	if !reflect.DeepEqual(c.Backups, want) {
		t.Errorf("node.json has %+v", c.Backups)
	}
}

// TestBackupsInMinIO holds the agent's way to buckets against MinIO, as the
// component of the catalog has it.
func TestBackupsInMinIO(t *testing.T) {
	if os.Getenv("HOLDFAST_PLATFORM_TEST") == "" {
		t.Skip("set HOLDFAST_PLATFORM_TEST=1; it needs mirrors")
	}
	compilesLong(t, "MinIO")
	s3test.Check(t, s3test.Program(t, siteOf(t, "minio").program(t, "minio"), t.TempDir()))
}
