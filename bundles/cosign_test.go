package bundles_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"holdfast.dev/holdfast/bundles"
	"holdfast.dev/holdfast/signing"
)

// TestStockCosign gives a layout to the program that operators may have.
func TestStockCosign(t *testing.T) {
	cosign := os.Getenv("COSIGN")
	if cosign == "" {
		var err error
		if cosign, err = exec.LookPath("cosign"); err != nil {
			t.Skip("cosign is not installed: set COSIGN to its path")
		}
	}
	s := openStore(t)
	rel := compose(t, s, input(t, s))
	entries, err := bundles.Layout(s, rel, signWith(t, rel, mine, second))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, e := range entries {
		p := filepath.Join(dir, "layout", e.Path)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		b := e.Data
		if b == nil {
			if b, err = s.ReadFile(e.Content, 1<<20); err != nil {
				t.Fatal(err)
			}
		}
		mustWrite(t, p, b)
	}
	verify := func(pub string) (string, error) {
		c := exec.Command(cosign, "verify", "--key", pub, "--offline", "--insecure-ignore-tlog=true", "--local-image", filepath.Join(dir, "layout"))
		c.Env = append(os.Environ(), "HOME="+dir, "HTTPS_PROXY=http://127.0.0.1:1") // nothing may be fetched
		out, err := c.CombinedOutput()
		return string(out), err
	}
	for name, k := range map[string]struct {
		pub  any
		good bool
	}{"mine": {&mine.PublicKey, true}, "second": {&second.PublicKey, true}, "stranger": {&stranger.PublicKey, false}} {
		b, err := signing.PublicPEM(k.pub)
		if err != nil {
			t.Fatal(err)
		}
		pub := filepath.Join(dir, name+".pub")
		mustWrite(t, pub, b)
		if out, err := verify(pub); (err == nil) != k.good {
			t.Errorf("%s: cosign says %v: %s", name, err, out)
		}
	}
	mustWrite(t, filepath.Join(dir, "layout/blobs/sha256", rel.Index.Digest.Hex()), []byte("{}"))
	if out, err := verify(filepath.Join(dir, "mine.pub")); err == nil {
		t.Errorf("cosign accepts another index: %s", out)
	}
}
