package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles/catalog"
)

// TestVolumes runs the storage component's program, as the account that its
// manifests have, against a real API server. Nothing schedules pods or binds
// volumes here, so the test says what the scheduler and the controller would.
func TestVolumes(t *testing.T) {
	if os.Getenv("HOLDFAST_PLATFORM_TEST") == "" {
		t.Skip("set HOLDFAST_PLATFORM_TEST=1; it starts an API server")
	}
	s := startServer(t)
	program := compiled(t, "local-volumes")["local-volumes"]
	all, err := catalog.Load()
	must(t, err)
	for _, c := range all {
		if c.Name != "storage" {
			continue
		}
		files, err := catalog.Render(c, map[string]store.Digest{c.Images[0].Name: store.FromBytes(nil)})
		must(t, err)
		for _, f := range files {
			s.kubectl(t, string(f.Data), "apply", "--server-side", "-f", "-")
		}
	}
	for _, node := range []string{"here", "there"} {
		s.kubectl(t, `{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "`+node+`"}}`, "apply", "-f", "-")
	}
	dir := t.TempDir()
	t.Setenv("NODE_NAME", "here")
	background(t, program, "--kubeconfig="+s.account(t, "local-path-storage", "local-volumes"), dir)

	volume := func(claim string) string { // its name
		t.Helper()
		return "pvc-" + s.kubectl(t, "", "get", "pvc", claim, "-o", "jsonpath={.metadata.uid}")
	}
	s.kubectl(t, claim("elsewhere", "there", "ReadWriteOnce"), "apply", "-f", "-")
	s.kubectl(t, claim("shared", "here", "ReadWriteMany"), "apply", "-f", "-")
	s.kubectl(t, claim("data", "here", "ReadWriteOnce"), "apply", "-f", "-")
	pv := volume("data")
	path := filepath.Join(dir, pv+"_default_data")
	if out := s.until(t, path, "", "get", "pv", pv, "-o", "yaml"); !strings.Contains(out, "- here") || !strings.Contains(out, "storage: 1Gi") {
		t.Errorf("the volume is %s", out)
	}
	if i, err := os.Stat(path); err != nil || i.Mode() != os.ModeDir|0o777 {
		t.Errorf("%v, %v: want a directory that everybody may write to", i, err)
	}
	if i, err := os.Stat(dir); err != nil || i.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v: want volumes that nobody else reaches", i, err)
	}
	s.until(t, "access mode ReadWriteMany is not to be had", "", "get", "events", "-A", "-o", "json", "--field-selector=involvedObject.name=shared")
	if out, err := s.try("", "get", "pv", volume("elsewhere")); err == nil {
		t.Errorf("made a volume for another node: %s", out)
	}

	// Deleted: one with files of others, one that is not below the directory.
	must(t, os.Mkdir(filepath.Join(path, "pgdata"), 0o700))
	must(t, os.WriteFile(filepath.Join(path, "pgdata", "row"), nil, 0o600))
	must(t, os.Chown(filepath.Join(path, "pgdata"), 999, 999))
	for _, o := range []string{"pvc/data", "pv/" + pv} { // who guards what is in use does not run
		s.kubectl(t, "", "patch", o, "--type=merge", `-p={"metadata": {"finalizers": null}}`)
	}
	s.kubectl(t, "", "delete", "pvc", "data", "--timeout=60s")
	s.kubectl(t, "", "patch", "pv", pv, "--subresource=status", "--type=merge", `-p={"status": {"phase": "Released"}}`)
	s.kubectl(t, "", "wait", "--for=delete", "--timeout=60s", "pv/"+pv)
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the volume's directory is still there: %v", err)
	}
	outside := filepath.Join(t.TempDir(), "precious")
	must(t, os.Mkdir(outside, 0o755))
	s.kubectl(t, fmt.Sprintf(`{"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "bad", "annotations": {"pv.kubernetes.io/provisioned-by": "rancher.io/local-path"}}, "spec": {
		"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": %q}, "persistentVolumeReclaimPolicy": "Delete", "storageClassName": "local-path",
		"claimRef": {"namespace": "default", "name": "gone", "uid": "1"},
		"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["here"]}]}]}}}}`, outside), "apply", "-f", "-")
	s.kubectl(t, "", "patch", "pv", "bad", "--subresource=status", "--type=merge", `-p={"status": {"phase": "Released"}}`)
	s.until(t, "is not in "+dir, "", "get", "events", "-A", "-o", "json", "--field-selector=involvedObject.name=bad")
	if _, err := os.Stat(outside); err != nil {
		t.Error(err)
	}
}

// claim is one that the scheduler has put on a node.
func claim(name, node, mode string) string {
	return fmt.Sprintf(`{"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": %q, "namespace": "default",
		"annotations": {"volume.kubernetes.io/selected-node": %q, "volume.kubernetes.io/storage-provisioner": "rancher.io/local-path"}},
		"spec": {"accessModes": [%q], "storageClassName": "local-path", "resources": {"requests": {"storage": "1Gi"}}}}`, name, node, mode)
}
