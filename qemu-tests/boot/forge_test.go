package boot_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles"
	"holdfast.dev/holdfast/image/uki"
	"holdfast.dev/holdfast/signing"
	"holdfast.dev/holdfast/signing/authenticode"
)

// forgery is a release that a site's keys sign, and that "holdfast build"
// would not make.
type forgery struct {
	facts   bundles.Facts
	cmdline string
	node    map[string]any     // node.json
	keys    string             // the directory whose keys sign it
	spoil   func(image []byte) // changes the kernel image, before it is signed

	manifests func(component, text string) string // changes a file of a component's
}

// forge makes another release out of a built site's, changed, and returns its
// bundle.
func forge(t *testing.T, site, name string, number uint64, change func(*forgery)) (bundle string) {
	t.Helper()
	v := openBundle(t, site)
	s, err := store.Open(cacheDir(t))
	must(t, err)
	old := v.Facts().Release
	kernel := blobOf(t, v, bundles.PartOS, bundles.UKI)
	part := func(section string) []byte {
		b, err := uki.ReadSection(kernel, section)
		must(t, err)
		return b
	}
	f := forgery{
		facts:   v.Facts(),
		cmdline: strings.Replace(strings.TrimRight(string(part(".cmdline")), "\x00\n"), releaseArg(old), releaseArg(number), 1),
		keys:    site,
		spoil:   func([]byte) {},

		manifests: func(_, text string) string { return text },
	}
	f.facts.Release = number
	must(t, json.Unmarshal(blobOf(t, v, bundles.PartSite, bundles.NodeJSON), &f.node))
	f.node["release"] = number
	change(&f)

	r, _ := result(t, site)
	stub, err := s.ReadFile(r.OS.Stub, 1<<20)
	must(t, err)
	osrel := regexp.MustCompile(`(?m)^IMAGE_VERSION=.*$`).ReplaceAllString(string(part(".osrel")), fmt.Sprint("IMAGE_VERSION=", number))
	image, err := uki.Assemble(stub, uki.Sections(osrel, f.cmdline, string(part(".uname")), part(".linux"), part(".initrd")))
	must(t, err)
	f.spoil(image)
	cert, err := signing.LoadCertificate(filepath.Join(f.keys, "trust", "db.crt"))
	must(t, err)
	db, err := signing.LoadPrivateKey(filepath.Join(f.keys, "keys", "db.key"))
	must(t, err)
	image, err = authenticode.Sign(image, cert, db)
	must(t, err)

	put := func(b []byte) store.Content {
		c, err := s.WriteBytes(b)
		must(t, err)
		return c
	}
	putJSON := func(v any) store.Content {
		b, err := json.Marshal(v)
		must(t, err)
		return put(b)
	}
	declared := map[string]any{}
	must(t, json.Unmarshal(blobOf(t, v, bundles.PartSite, bundles.SiteJSON), &declared))
	declared["release"] = number
	in := bundles.ReleaseInput{
		Facts: f.facts, Images: v.Images(), Site: putJSON(declared), Node: putJSON(f.node),
		SBOM:       put(blobOf(t, v, bundles.PartSBOM, bundles.SBOMJSON)),
		Provenance: put(blobOf(t, v, bundles.PartProvenance, bundles.ProvenanceJSON)),
	}
	for _, file := range v.OSFiles() {
		if file.Title == bundles.UKI {
			file.Content = put(image)
		}
		in.OS = append(in.OS, file)
	}
	for _, c := range v.Components() {
		files := slices.Clone(v.Files(bundles.PartManifests, c))
		for i, file := range files {
			files[i].Content = put([]byte(f.manifests(c, string(readBlob(t, v, file.Content)))))
		}
		in.Manifests = append(in.Manifests, bundles.ComponentManifests{Component: c, Files: files})
	}
	return signAndPack(t, s, in, f.keys, name)
}

func signAndPack(t *testing.T, s *store.Store, in bundles.ReleaseInput, keys, name string) string {
	t.Helper()
	rel, err := bundles.Compose(s, in)
	must(t, err)
	key, err := signing.LoadPrivateKey(filepath.Join(keys, "keys", "release.key"))
	must(t, err)
	sig, err := signing.Sign(string(rel.Index.Digest), fmt.Sprint(in.Facts.Name, ":", in.Facts.Release), key, nil)
	must(t, err)
	base, err := work()
	must(t, err)
	out, err := os.Create(filepath.Join(base, name+".bundle"))
	must(t, err)
	must(t, bundles.Pack(context.Background(), out, s, rel, []signing.Signature{sig}, nil))
	must(t, out.Close())
	return out.Name()
}

func releaseArg(n uint64) string { return fmt.Sprint("holdfast.release=", n) }

// openBundle is a built site's release.
func openBundle(t *testing.T, site string) *bundles.Verified {
	t.Helper()
	doc, err := os.ReadFile(filepath.Join(site, "trust", "policy.json"))
	must(t, err)
	policy, err := signing.ParsePolicy(doc)
	must(t, err)
	_, base := result(t, site)
	file, err := os.Open(base + ".bundle")
	must(t, err)
	t.Cleanup(func() { file.Close() })
	fi, err := file.Stat()
	must(t, err)
	v, err := bundles.OpenAt(t.Context(), file, fi.Size(), bundles.Trust{Policy: policy, Zone: bundles.AnyZone}, nil)
	must(t, err)
	return v
}

func blobOf(t *testing.T, v *bundles.Verified, part, title string) []byte {
	t.Helper()
	f, ok := v.File(part, title)
	if !ok {
		t.Fatalf("the release has no %s", title)
	}
	return readBlob(t, v, f.Content)
}

func readBlob(t *testing.T, v *bundles.Verified, c store.Content) []byte {
	t.Helper()
	r, err := v.OpenBlob(c)
	must(t, err)
	defer r.Close()
	b, err := io.ReadAll(r)
	must(t, err)
	return b
}
