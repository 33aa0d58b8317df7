package install

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/json"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles"
	"holdfast.dev/holdfast/bundles/sbom"
	"holdfast.dev/holdfast/signing"
)

func testKey(n int64) *ecdsa.PrivateKey {
	k, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), big.NewInt(n).FillBytes(make([]byte, 32)))
	if err != nil {
		panic(err)
	}
	return k
}

func policyOf(t testing.TB, zone string, k *ecdsa.PrivateKey) signing.Policy {
	t.Helper()
	pk, err := signing.NewKey("test", &k.PublicKey, false)
	if err != nil {
		t.Fatal(err)
	}
	p, err := signing.NewPolicy([]signing.Key{pk}, []signing.Rule{{Zone: zone, Threshold: 1, Keys: []string{pk.ID}}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// spec is what test releases differ in.
type spec struct {
	release            uint64
	name, zone, engine string
	root, libc, layer  string // contents; another root is another root hash
	manifest           string
	rawSize            int64 // claimed of root.erofs; 0 for the truth
}

func first() spec {
	return spec{release: 1, name: "demo", zone: "official", engine: "kubeadm v1.36.3", root: "a", libc: "1", layer: "one", manifest: "kind: A\n"}
}

func second() spec {
	s := first()
	s.release, s.root, s.libc, s.layer, s.manifest = 2, "b", "2", "two", "kind: B\n"
	return s
}

func zip(t testing.TB, b []byte) []byte {
	t.Helper()
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return z.EncodeAll(b, nil)
}

type maker struct {
	testing.TB
	*store.Store
}

func (m maker) put(b string) store.Content {
	m.Helper()
	c, err := m.WriteBytes([]byte(b))
	if err != nil {
		m.Fatal(err)
	}
	return c
}

func (m maker) packed(title, media, content string, claimed int64) bundles.File {
	raw := store.Content{Digest: store.FromBytes([]byte(content)), Size: int64(len(content))}
	if claimed != 0 {
		raw.Size = claimed
	}
	return bundles.File{Title: title, MediaType: media, Content: m.put(string(zip(m, []byte(content)))), Raw: raw}
}

func (m maker) image(layer string) store.Content {
	type desc struct {
		MediaType string       `json:"mediaType"`
		Digest    store.Digest `json:"digest"`
		Size      int64        `json:"size"`
	}
	config, l := m.put("{}"), m.put("a base layer"+strings.Repeat(layer, 100))
	b, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": desc{"application/vnd.oci.image.config.v1+json", config.Digest, config.Size},
		"layers": []desc{{"application/vnd.oci.image.layer.v1.tar", l.Digest, l.Size}},
	})
	if err != nil {
		m.Fatal(err)
	}
	return m.put(string(b))
}

func rootOf(s spec) string { return strings.Repeat(s.root, 64) }

// bundle makes a release and opens it as a bundle.
func bundle(t testing.TB, s spec) *bundles.Verified {
	t.Helper()
	dir, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	m := maker{t, dir}
	var list bytes.Buffer
	err = sbom.Write(&list, sbom.Input{Name: s.name, Namespace: sbom.Namespace("x"), Created: time.Unix(1700000000, 0),
		Packages: []sbom.Package{{Kind: sbom.File, Name: "root.erofs", Contains: []sbom.Package{{Kind: sbom.Deb, Name: "libc6", Version: s.libc}}}}})
	if err != nil {
		t.Fatal(err)
	}
	eng, ver, _ := strings.Cut(s.engine, " ")
	rel, err := bundles.Compose(dir, bundles.ReleaseInput{
		Facts: bundles.Facts{Name: s.name, Release: s.release, Zone: s.zone, Domain: "demo.example", Version: "0.1.0", Epoch: 1700000000, RootHash: rootOf(s)},
		OS: []bundles.File{
			m.packed(bundles.RootErofs, bundles.MediaRoot, strings.Repeat("root "+s.root, 5000), s.rawSize),
			m.packed(bundles.RootVerity, bundles.MediaVerity, "verity "+s.root, 0),
			{Title: bundles.UKI, MediaType: bundles.MediaUEFI, Content: m.put(fmt.Sprintf("kernel %s of %d", s.root, s.release))},
		},
		Images:     []bundles.Image{{Name: "registry.example/db:v" + s.layer, Component: "db", Manifest: m.image(s.layer)}},
		Manifests:  []bundles.ComponentManifests{{Component: "db", Files: []bundles.File{{Title: "db.yaml", Content: m.put(s.manifest)}}}},
		Site:       m.put(`{"site":1}`),
		Node:       m.put(fmt.Sprintf(`{"name":%q,"release":%d,"engine":{"name":%q,"version":%q}}`, s.name, s.release, eng, ver)),
		SBOM:       m.put(list.String()),
		Provenance: m.put("{}"),
	})
	if err != nil {
		t.Fatal(err)
	}
	sig, err := signing.Sign(string(rel.Index.Digest), fmt.Sprintf("%s:%d", s.name, s.release), testKey(1), nil)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := bundles.Pack(t.Context(), &b, dir, rel, []signing.Signature{sig}, nil); err != nil {
		t.Fatal(err)
	}
	v, err := bundles.OpenAt(t.Context(), bytes.NewReader(b.Bytes()), int64(b.Len()), bundles.Trust{Policy: policyOf(t, s.zone, testKey(1)), Zone: s.zone}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// seed writes a release into a layout without its root, as on a disk, and
// opens it there.
func seed(t testing.TB, s spec) (string, *bundles.Verified) {
	t.Helper()
	dir := t.TempDir()
	if err := Import(t.Context(), bundle(t, s), ImportOptions{Into: dir, SkipRoot: true}); err != nil {
		t.Fatal(err)
	}
	return dir, openOne(t, []string{dir}, s)
}

func openOne(t testing.TB, dirs []string, s spec) *bundles.Verified {
	t.Helper()
	vs, err := bundles.OpenLayout(dirs, bundles.Trust{Policy: policyOf(t, s.zone, testKey(1)), Zone: s.zone})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range vs {
		if v.Facts().Release == s.release {
			return v
		}
	}
	t.Fatalf("no release %d among %d", s.release, len(vs))
	return nil
}

func blobFiles(t testing.TB, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "blobs/sha256/*"))
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob(filepath.Join(dir, "blobs/sha256/.*"))
	if err != nil {
		t.Fatal(err)
	}
	return append(names, more...)
}

func mustWrite(t testing.TB, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(name, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

func mustRead(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
