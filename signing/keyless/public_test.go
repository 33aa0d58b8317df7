package keyless

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/verify"

	"holdfast.dev/holdfast/signing"
)

// What the public Sigstore certified is verified by the root that holdfast
// carries: a statement that comes with the library, as an example of it.
func TestPublicRoot(t *testing.T) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/sigstore/sigstore-go").Output()
	if err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "examples", "bundle-provenance.json"))
	if err != nil {
		t.Fatal(err)
	}
	var b bundle.Bundle
	if err := b.UnmarshalJSON(whole); err != nil {
		t.Fatal(err)
	}
	const issuer = "https://token.actions.githubusercontent.com"
	for id, good := range map[signing.Identity]bool{
		{Subject: "https://github.com/sigstore/sigstore-js/.github/workflows/release.yml@refs/heads/main", Issuer: issuer}: true,
		{Subject: "https://github.com/sigstore/sigstore-js/.github/workflows/release.yml@refs/heads/mai", Issuer: issuer}:  false,
	} {
		v, err := New(id, PublicRoot)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.verifier.Verify(&b, verify.NewPolicy(verify.WithoutArtifactUnsafe(), verify.WithCertificateIdentity(v.identity))); (err == nil) != good {
			t.Errorf("%v: got %v", id, err)
		}
	}
}
