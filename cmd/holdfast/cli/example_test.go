package cli_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"os"
	"path/filepath"
	"testing"
	"time"

	"holdfast.dev/holdfast/cmd/holdfast/cli"
)

// The lock that is committed with the example must fit the catalog: new keys
// are all that a fresh clone adds, and that needs no network. Its release is closed.
func TestExampleLockFits(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "manifests"), os.DirFS("../../../examples/source/manifests")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"site.yaml", "site.lock"} {
		b, err := os.ReadFile(filepath.Join("../../../examples/source", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	env := map[string]string{
		"HOLDFAST_CACHE":                  t.TempDir(),
		"HOLDFAST_DEBIAN_MIRROR":          "http://127.0.0.1:1/debian",
		"HOLDFAST_DEBIAN_SECURITY_MIRROR": "http://127.0.0.1:1/debian-security",
		"GOPROXY":                         "off",
	}
	for _, args := range [][]string{{"keys", "generate", "--development"}, {"lock"}, {"lock", "--check"}, {"check"}} {
		var out bytes.Buffer
		h := cli.Host{
			Stdin: bytes.NewReader(nil), Stdout: &out, Stderr: &out, Now: time.Now, Rand: rand.Reader,
			Getenv: func(k string) string { return env[k] },
		}
		if code := cli.Run(context.Background(), h, append([]string{"-C", dir}, args...)); code != 0 {
			t.Fatalf("holdfast %v: exit code %d\n%s", args, code, out.String())
		}
	}
}
