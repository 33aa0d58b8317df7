package deb_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// member is a tar member; a zero Mode means 0644 or, for directories, 0755.
type member struct {
	tar.Header
	body string
}

func file(name, body string) member { return member{tar.Header{Name: name}, body} }
func dir(name string) member {
	return member{tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}, ""}
}
func link(name, target string) member {
	return member{tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target}, ""}
}

func makeTar(t testing.TB, members ...member) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		h := m.Header
		h.Size = int64(len(m.body))
		h.ModTime = time.Unix(1700000000, 0)
		if h.Format == 0 {
			h.Format = tar.FormatGNU
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, m.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func compress(t testing.TB, suffix string, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	var w io.WriteCloser
	var err error
	switch suffix {
	case "":
		return b
	case ".gz":
		w = gzip.NewWriter(&out)
	case ".xz":
		w, err = xz.NewWriter(&out)
	case ".zst":
		w, err = zstd.NewWriter(&out)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// makeAr takes names and contents in turn.
func makeAr(parts ...string) []byte {
	b := []byte("!<arch>\n")
	for i := 0; i < len(parts); i += 2 {
		b = fmt.Appendf(b, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", parts[i], 0, 0, 0, "100644", len(parts[i+1]))
		b = append(b, parts[i+1]...)
		if len(parts[i+1])%2 == 1 {
			b = append(b, '\n')
		}
	}
	return b
}

const control = "Package: demo\nVersion: 1:2.0-1\nArchitecture: amd64\nMaintainer: Nobody <nobody@example.com>\nDescription: a package\n with a long text\n"

func makeDeb(t testing.TB, suffix string, data ...member) []byte {
	t.Helper()
	c := makeTar(t, dir("./"), file("./control", control), file("./postinst", "#!/bin/sh\n"), file("./conffiles", "/etc/demo.conf\nremove-on-upgrade /etc/old\n"))
	return makeAr("debian-binary", "2.0\n",
		"control.tar"+suffix, string(compress(t, suffix, c)),
		"data.tar"+suffix, string(compress(t, suffix, makeTar(t, data...))))
}

func write(t testing.TB, name string, b []byte) string {
	t.Helper()
	name = filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(name, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}
