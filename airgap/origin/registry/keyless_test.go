package registry_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/qemu-tests/distribution"
	"holdfast.dev/holdfast/qemu-tests/sigstore"
	"holdfast.dev/holdfast/signing"
	"holdfast.dev/holdfast/signing/keyless"
)

// What was signed without a key is found beside its image in both forms and
// verified, and not as somebody else's; the stock cosign agrees, where it is.
func TestKeyless(t *testing.T) {
	const workflow, issuer = "https://git.example/team/app/release.yml@refs/tags/v1", "https://token.example"
	b := newBed(t)
	s, err := sigstore.New()
	if err != nil {
		t.Fatal(err)
	}
	by := sigstore.Signing{Identity: workflow, Issuer: issuer}
	for form, put := range map[string]func(*testing.T, string, store.Digest) []string{
		"2": func(t *testing.T, repository string, d store.Digest) []string {
			payload, err := signing.Payload(string(d), b.Addr+"/"+repository, nil)
			if err != nil {
				t.Fatal(err)
			}
			annotations, err := s.Attach(by, payload)
			if err != nil {
				t.Fatal(err)
			}
			b.putLayer(t, repository+":sha256-"+d.Hex()+".sig", mutate.Addendum{
				Layer: static.NewLayer(payload, "application/vnd.dev.cosign.simplesigning.v1+json"), Annotations: annotations}, nil)
			return []string{"verify", "--offline", b.Addr + "/" + repository + "@" + string(d)}
		},
		// cosign 2.5 reads this form from files alone.
		"3": func(t *testing.T, repository string, d store.Digest) []string {
			bundle, err := s.Bundle(by, []byte(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":"`+d.Hex()+`"}}],"predicateType":"https://sigstore.dev/cosign/sign/v1","predicate":{}}`))
			if err != nil {
				t.Fatal(err)
			}
			hash, err := v1.NewHash(string(d))
			if err != nil {
				t.Fatal(err)
			}
			b.putLayer(t, repository+":bundle", mutate.Addendum{Layer: static.NewLayer(bundle, signing.BundleType)}, &v1.Descriptor{MediaType: types.OCIManifestSchema1, Digest: hash, Size: 1})
			file := filepath.Join(t.TempDir(), "bundle.json")
			if err := os.WriteFile(file, bundle, 0o600); err != nil {
				t.Fatal(err)
			}
			return []string{"verify-blob-attestation", "--new-bundle-format", "--trusted-root", "root.json", "--bundle", file,
				"--type", "https://sigstore.dev/cosign/sign/v1", b.store.Path(d)}
		},
	} {
		t.Run(form, func(t *testing.T) {
			repository := "team/app" + form
			if err := b.Put(repository+":1", image(t, 100, 1, "linux", "amd64")); err != nil {
				t.Fatal(err)
			}
			r := ref(t, "registry.example/"+repository+":1")
			d := b.resolve(t, r).Manifest.Digest
			args := put(t, repository, d)
			claims, err := b.client.Signatures(t.Context(), r, d)
			if err != nil || len(claims.Signatures)+len(claims.Bundles) != 1 {
				t.Fatal(claims, err)
			}
			for who, good := range map[string]bool{workflow: true, workflow + "1": false} {
				v, err := keyless.New(signing.Identity{Subject: who, Issuer: issuer}, s.TrustedRoot())
				if err != nil {
					t.Fatal(err)
				}
				if err := v.Verify(string(d), claims); (err == nil) != good || err != nil && !errors.Is(err, signing.ErrUntrusted) {
					t.Errorf("%s: got %v", who, err)
				}
				if out, err := b.cosignVerifies(t, s, append(args, "--certificate-identity", who, "--certificate-oidc-issuer", issuer)); (err == nil) != good {
					t.Errorf("cosign, %s: %v\n%s", who, err, out)
				}
			}
		})
	}
}

// putLayer pushes an artifact of one layer, which may be about another image.
func (b bed) putLayer(t *testing.T, repositoryTag string, layer mutate.Addendum, about *v1.Descriptor) {
	t.Helper()
	kind, err := layer.Layer.MediaType()
	if err != nil {
		t.Fatal(err)
	}
	im := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	if about != nil {
		im = mutate.ConfigMediaType(im, kind)
	}
	if im, err = mutate.Append(im, layer); err != nil {
		t.Fatal(err)
	}
	if about != nil {
		im = mutate.Subject(im, *about).(v1.Image)
	}
	if err := b.Put(repositoryTag, im); err != nil {
		t.Fatal(err)
	}
}

// cosignVerifies asks the stock program, which is told whose word counts by a
// trusted root or, for its older form, by keys.
func (b bed) cosignVerifies(t *testing.T, s *sigstore.Sigstore, args []string) (string, error) {
	t.Helper()
	program := os.Getenv("COSIGN")
	if program == "" {
		t.Skip("set COSIGN to the path of cosign")
	}
	dir := t.TempDir()
	ca, certificates, signatures := s.Keys()
	if err := errors.Join(distribution.Login(filepath.Join(dir, "docker"), b.Addr),
		os.WriteFile(filepath.Join(dir, "root.json"), s.TrustedRoot(), 0o600), os.WriteFile(filepath.Join(dir, "ca.pem"), ca, 0o600),
		os.WriteFile(filepath.Join(dir, "ctfe.pem"), certificates, 0o600), os.WriteFile(filepath.Join(dir, "rekor.pem"), signatures, 0o600)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HOME="+dir, "DOCKER_CONFIG="+filepath.Join(dir, "docker"), "SSL_CERT_FILE="+b.CA,
		"SIGSTORE_ROOT_FILE=ca.pem", "SIGSTORE_CT_LOG_PUBLIC_KEY_FILE=ctfe.pem", "SIGSTORE_REKOR_PUBLIC_KEY=rekor.pem")
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}
