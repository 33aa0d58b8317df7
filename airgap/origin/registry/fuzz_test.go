package registry

import "testing"

// Whatever a registry answers, it is read or refused.
func FuzzManifest(f *testing.F) {
	for _, s := range []string{
		"", "{}", `{"schemaVersion":2,"config":{},"layers":[{}]}`,
		`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"digest":"sha256:x","size":-1,"platform":{"os":"linux","architecture":"amd64"}}]}`,
		`{"os":"linux","architecture":"amd64","rootfs":{"diff_ids":["x"]}}`,
	} {
		f.Add([]byte(s))
	}
	want := Platform{"linux", "amd64"}
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = readDocument(b, "application/vnd.oci.image.manifest.v1+json")
		if p, err := readManifest(b); err == nil && (len(p) == 0 || p.bytes() < 0) {
			t.Errorf("read %v", p)
		}
		if c, err := choose(b, want); err == nil && (c.Size < 0 || c.Size > maxManifest) {
			t.Errorf("chose %+v", c)
		}
		_, _ = checkConfig(b, want)
	})
}
