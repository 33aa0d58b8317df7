package cli

import (
	"os"
	"testing"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/s3/s3test"
)

// TestBackupsInMinIO holds the agent's way to buckets against MinIO, as the
// component of the catalog has it.
func TestBackupsInMinIO(t *testing.T) {
	if os.Getenv("HOLDFAST_PLATFORM_TEST") == "" {
		t.Skip("set HOLDFAST_PLATFORM_TEST=1; it needs mirrors")
	}
	compilesLong(t, "MinIO")
	s3test.Check(t, s3test.Program(t, siteOf(t, "minio").program(t, "minio")))
}
