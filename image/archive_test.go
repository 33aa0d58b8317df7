package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"strings"
	"testing"

	"holdfast.dev/holdfast/airgap/store"
)

func targz(t *testing.T, names ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, n := range names {
		h := &tar.Header{Name: n, Mode: 0o666, Uid: 1001, Size: 1, Typeflag: tar.TypeReg}
		if strings.HasSuffix(n, "/") {
			h.Typeflag, h.Size, h.Mode = tar.TypeDir, 0, 0o777
		}
		err := w.WriteHeader(h)
		if err == nil && h.Size > 0 {
			_, err = w.Write([]byte("x"))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestArchive(t *testing.T) {
	s, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	archive := func(b []byte, drop ...string) Archive {
		c, err := s.WriteBytes(b)
		if err != nil {
			t.Fatal(err)
		}
		return Archive{Name: "org.example:app:1:tar.gz", Content: c, Path: "opt/app", Drop: drop}
	}
	files := targz(t, "app-1/", "app-1/lib/", "app-1/lib/a.jar", "app-1/bin/", "app-1/bin/app.sh", "app-1/binary")
	for range 2 { // the second time from what is remembered
		tree, err := archive(files, "bin").tree(s)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range tree.Files() {
			got = append(got, fmt.Sprintf("%s %o %d:%d %d", f.Path, f.Mode&0o777, f.UID, f.GID, f.MTime))
		}
		want := []string{". 755 0:0 315532800", "opt 755 0:0 315532800", "opt/app 755 0:0 315532800", "opt/app/binary 644 0:0 315532800", "opt/app/lib 755 0:0 315532800", "opt/app/lib/a.jar 644 0:0 315532800"}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("got\n%s", strings.Join(got, "\n"))
		}
	}
	for _, c := range []struct {
		name, want string
		a          Archive
	}{
		{"no top directory", "not in one directory", archive(targz(t, "a"))},
		{"a drop that drops nothing", "it is not there", archive(files, "lib/b.jar")},
		{"out of the tree", "leaves the tree", archive(targz(t, "app/../../etc/x"))},
		{"no archive", "gzip", archive([]byte("no archive"))},
		{"not collected", "holdfast collect", Archive{Name: "a", Content: store.Content{Digest: store.FromBytes([]byte("?")), Size: 1}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := c.a.tree(s); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want %q", err, c.want)
			}
		})
	}
}
