package backup_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"

	"holdfast.dev/holdfast/bundles/backup"
)

func key(t testing.TB) *age.HybridIdentity {
	t.Helper()
	k, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func header() backup.Header {
	return backup.Header{
		Site: "harbour", Zone: "official", Release: 3, Index: "sha256:00", Engine: "kubeadm", EngineVersion: "v1.36.3",
		Node: "node1", Address: "10.0.2.15", Time: time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC),
	}
}

// small is a backup of one file, one directory and one link.
func small(t testing.TB, to ...age.Recipient) []byte {
	t.Helper()
	var b bytes.Buffer
	h := header()
	h.Files, h.Bytes = 3, 5
	w, err := backup.NewWriter(&b, to, h)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []struct {
		t    tar.Header
		data string
	}{
		{tar.Header{Typeflag: tar.TypeDir, Name: "var/lib/etcd", Mode: 0o700}, ""},
		{tar.Header{Typeflag: tar.TypeReg, Name: "var/lib/etcd/db", Size: 5, Mode: 0o600, Uid: 70}, "hello"},
		{tar.Header{Typeflag: tar.TypeLink, Name: "var/lib/etcd/same", Linkname: "var/lib/etcd/db"}, ""},
	} {
		if err := w.Add(&f.t, strings.NewReader(f.data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestRoundTrip(t *testing.T) {
	one, other := key(t), key(t)
	b := small(t, one.Recipient(), other.Recipient())
	for _, k := range []age.Identity{one, other} {
		r, err := backup.NewReader(bytes.NewReader(b), []age.Identity{k})
		if err != nil {
			t.Fatal(err)
		}
		if r.Header.Site != "harbour" || r.Header.Name() != "harbour-3-20261127T120000Z.holdfast-backup" {
			t.Errorf("header %+v, name %s", r.Header, r.Header.Name())
		}
		var got []string
		for {
			f, err := r.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			data, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, f.Name+f.Linkname+string(data))
		}
		r.Close()
		if s := strings.Join(got, " "); s != "var/lib/etcd var/lib/etcd/dbhello var/lib/etcd/samevar/lib/etcd/db" {
			t.Errorf("got %s", s)
		}
	}
}

func TestCodeIsOfTheWholeFile(t *testing.T) {
	k := key(t)
	b := small(t, k.Recipient())
	want, err := backup.CodeOf(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	_, got, err := backup.Check(bytes.NewReader(b), []age.Identity{k})
	if err != nil || got != want || len(want) != len("0000-0000-0000-0000-0000") {
		t.Errorf("code %s, %v; want %s", got, err, want)
	}
}

func TestDamage(t *testing.T) {
	k := key(t)
	good := small(t, k.Recipient())
	with := []age.Identity{k}
	for i := range good {
		b := bytes.Clone(good)
		b[i] ^= 1
		if _, _, err := backup.Check(bytes.NewReader(b), with); !errors.Is(err, backup.ErrRefused) {
			t.Fatalf("byte %d changed: %v", i, err)
		}
		if _, _, err := backup.Check(bytes.NewReader(good[:i]), with); !errors.Is(err, backup.ErrRefused) {
			t.Fatalf("cut at %d: %v", i, err)
		}
	}
	if _, _, err := backup.Check(bytes.NewReader(append(bytes.Clone(good), 0)), with); !errors.Is(err, backup.ErrRefused) {
		t.Errorf("one byte more: %v", err)
	}
	if _, _, err := backup.Check(bytes.NewReader(good), []age.Identity{key(t)}); !errors.Is(err, backup.ErrRefused) || !strings.Contains(err.Error(), "not encrypted to this recovery key") {
		t.Errorf("another key: %v", err)
	}
}

// TestOnlyWhatWasAnnounced: a writer that was given less, or more, than its
// header says makes no backup.
func TestOnlyWhatWasAnnounced(t *testing.T) {
	h := header()
	h.Files = 1
	w, err := backup.NewWriter(io.Discard, []age.Recipient{key(t).Recipient()}, h)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err == nil {
		t.Error("a backup without its file")
	}
	for _, bad := range []tar.Header{
		{Typeflag: tar.TypeReg, Name: "/etc/passwd"},
		{Typeflag: tar.TypeReg, Name: "var/../etc/passwd"},
		{Typeflag: tar.TypeReg, Name: "."},
		{Typeflag: tar.TypeChar, Name: "var/null"},
		{Typeflag: tar.TypeLink, Name: "var/x", Linkname: "../../etc/passwd"},
		{Typeflag: tar.TypeSymlink, Name: "var/x"},
		{Typeflag: tar.TypeDir, Name: "var/x", Size: 1},
	} {
		if err := w.Add(&bad, nil); err == nil {
			t.Errorf("added %+v", bad)
		}
	}
}

func TestKeys(t *testing.T) {
	dir := t.TempDir()
	if err := backup.GenerateKey(dir); err != nil {
		t.Fatal(err)
	}
	if err := backup.GenerateKey(dir); !errors.Is(err, os.ErrExist) {
		t.Errorf("made a second key: %v", err)
	}
	fi, err := os.Stat(filepath.Join(dir, backup.PrivateKey))
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("private key: %v, %v", fi, err)
	}
	public, err := os.ReadFile(filepath.Join(dir, backup.PublicKeys))
	if err != nil {
		t.Fatal(err)
	}
	lines, err := backup.Lines(public)
	if err != nil || len(lines) != 1 {
		t.Fatalf("%d public keys, %v", len(lines), err)
	}
	to, err := backup.Recipients(lines)
	if err != nil {
		t.Fatal(err)
	}
	private, err := os.Open(filepath.Join(dir, backup.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	defer private.Close()
	with, err := backup.ParseIdentities(private)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := backup.Check(bytes.NewReader(small(t, to...)), with); err != nil {
		t.Error(err)
	}
	const secret = "AGE-SECRET-KEY-1NOTAKEY"
	if _, err := backup.ParseIdentities(strings.NewReader(secret)); err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("a wrong key: %v", err)
	}
}

// FuzzReader: what is inside is as hostile as whoever knows the public key likes.
func FuzzReader(f *testing.F) {
	k := key(f)
	var t bytes.Buffer
	w := tar.NewWriter(&t)
	w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "backup.json", Size: 2})
	w.Write([]byte("{}"))
	w.Close()
	f.Add(t.Bytes())
	f.Add([]byte("backup.json"))
	f.Fuzz(func(t *testing.T, plain []byte) {
		var b bytes.Buffer
		sealed, err := age.Encrypt(&b, k.Recipient())
		if err != nil {
			t.Fatal(err)
		}
		packed, err := zstd.NewWriter(sealed)
		if err != nil {
			t.Fatal(err)
		}
		packed.Write(plain)
		if err := errors.Join(packed.Close(), sealed.Close()); err != nil {
			t.Fatal(err)
		}
		h, _, err := backup.Check(&b, []age.Identity{k})
		if err == nil && h.Site == "" {
			t.Errorf("took %q", plain)
		}
	})
}
