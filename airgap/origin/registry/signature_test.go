package registry_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/qemu-tests/distribution"
	"holdfast.dev/holdfast/signing"
)

// cosign runs the stock program that a variable names, logged in to the
// registry.
func (b bed) cosign(t *testing.T, variable, dir string, args ...string) {
	t.Helper()
	program := os.Getenv(variable)
	if program == "" {
		t.Skipf("set %s to the path of cosign", variable)
	}
	if err := distribution.Login(filepath.Join(dir, "docker"), b.Addr); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "COSIGN_PASSWORD=", "HOME="+dir, "DOCKER_CONFIG="+filepath.Join(dir, "docker"), "SSL_CERT_FILE="+b.CA)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cosign %v: %v\n%s", args, err, out)
	}
}

// What the stock cosign signed with a key verifies, in its form up to version
// 2 and in that of version 3; what it did not sign, or another key did, does
// not.
func TestSignedByCosign(t *testing.T) {
	t.Run("2", func(t *testing.T) { testSigned(t, "COSIGN") })
	t.Run("3", func(t *testing.T) { testSigned(t, "COSIGN3", "--use-signing-config=false") })
}

func testSigned(t *testing.T, variable string, flags ...string) {
	b := newBed(t)
	dir := t.TempDir()
	ix, _ := index(t, 100, "amd64", "arm64")
	if err := errors.Join(b.Put("team/app:1", ix), b.Put("team/app:2", image(t, 100, 1, "linux", "amd64"))); err != nil {
		t.Fatal(err)
	}
	b.cosign(t, variable, dir, "generate-key-pair")
	im := b.resolve(t, ref(t, "registry.example/team/app:1"))
	sign := []string{"sign", "--key", "cosign.key", "--tlog-upload=false", "--yes", "-a", "build=7"}
	b.cosign(t, variable, dir, slices.Concat(sign, flags, []string{b.Addr + "/team/app@" + string(im.Index)})...)
	pem, err := os.ReadFile(filepath.Join(dir, "cosign.pub"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := signing.ParsePublicKey(pem)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := signing.GenerateRelease(nil)
	if err != nil {
		t.Fatal(err)
	}
	r := ref(t, "registry.example/team/app:1")
	sigs, err := b.client.Signatures(context.Background(), r, im.Index)
	if err != nil || len(sigs.Signatures)+len(sigs.Bundles) != 1 {
		t.Fatal(sigs, err)
	}
	if err := signing.VerifyKey(key, string(im.Index), sigs); err != nil {
		t.Error(err)
	}
	for name, err := range map[string]error{
		"another key":    signing.VerifyKey(&stranger.PublicKey, string(im.Index), sigs),
		"another digest": signing.VerifyKey(key, string(im.Manifest.Digest), sigs),
		"no signature":   signing.VerifyKey(key, string(im.Index), signing.Claims{}),
	} {
		if !errors.Is(err, signing.ErrUntrusted) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	unsigned := b.resolve(t, ref(t, "registry.example/team/app:2"))
	if sigs, err := b.client.Signatures(context.Background(), r, unsigned.Manifest.Digest); len(sigs.Signatures)+len(sigs.Bundles) != 0 || err != nil {
		t.Errorf("got %v, %v", sigs, err)
	}
	// A signature that was changed on the way.
	b.proxy.Break(always(distribution.Fault{After: 10, Flip: true}))
	if _, err := b.client.Signatures(context.Background(), r, im.Index); !errors.Is(err, store.ErrMismatch) || !strings.Contains(err.Error(), "signature") {
		t.Errorf("got %v", err)
	}
}
