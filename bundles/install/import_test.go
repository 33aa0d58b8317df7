package install

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles"
)

func TestImportBringsWhatIsMissing(t *testing.T) {
	seedDir, run := seed(t, first())
	v, into := bundle(t, second()), t.TempDir()
	var done, total int64
	o := ImportOptions{Have: []string{seedDir}, Into: into, Progress: func(d, of int64) { done, total = d, of }}
	missing, err := Missing(v, []string{into, seedDir}, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := Import(t.Context(), v, o); err != nil {
		t.Fatal(err)
	}
	if got := len(blobFiles(t, into)); got != len(missing) {
		t.Errorf("%d blobs were written, %d were missing", got, len(missing))
	}
	if done != total || total == 0 {
		t.Errorf("progress ended at %d of %d", done, total)
	}
	got := openOne(t, []string{seedDir, into}, second())
	for _, title := range []string{bundles.RootErofs, bundles.RootVerity, bundles.UKI} {
		if _, open, err := Raw(got, title); err != nil {
			t.Error(err)
		} else if r, err := open(); err != nil {
			t.Error(err)
		} else if _, err := io.ReadAll(r); err != nil {
			t.Error(err)
		}
	}
	// A third one keeps the second named.
	third := second()
	third.release, third.manifest = 3, "kind: C\n"
	o.Keep = []*bundles.Verified{got, got, run}
	if err := Import(t.Context(), bundle(t, third), o); err != nil {
		t.Fatal(err)
	}
	for _, s := range []spec{first(), second(), third} {
		openOne(t, []string{seedDir, into}, s)
	}
}

func TestImportGoesOn(t *testing.T) {
	v, into := bundle(t, second()), t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	o := ImportOptions{Into: into, Progress: func(d, of int64) {
		if d > of/2 {
			cancel()
		}
	}}
	if err := Import(ctx, v, o); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	if _, err := os.Stat(filepath.Join(into, "index.json")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an import that was cut off is named: %v", err)
	}
	some := blobFiles(t, into)
	if len(some) == 0 {
		t.Fatal("nothing was kept")
	}
	// One rotted meanwhile, and a cut left a part.
	b := mustRead(t, some[0])
	b[0] ^= 1
	mustWrite(t, some[0], b)
	blobs, err := v.Blobs()
	if err != nil {
		t.Fatal(err)
	}
	mustWrite(t, filepath.Join(into, "blobs/sha256", "."+blobs[len(blobs)-1].Digest.Hex()+".part"), []byte("half"))
	o.Progress = nil
	if err := Import(t.Context(), v, o); err != nil {
		t.Fatal(err)
	}
	if got := len(blobFiles(t, into)); got != len(blobs) {
		t.Errorf("%d files for %d blobs", got, len(blobs))
	}
	for _, c := range blobs {
		if got := store.FromBytes(mustRead(t, blobPath(into, c.Digest))); got != c.Digest {
			t.Errorf("%s holds %s", c.Digest, got)
		}
	}
}

func TestImportTellsAllThatIsMissing(t *testing.T) {
	dir, v := seed(t, second()) // has no root
	into := t.TempDir()
	for _, name := range blobFiles(t, dir)[:1] {
		b := mustRead(t, name)
		b[0] ^= 1
		mustWrite(t, name, b)
	}
	err := Import(t.Context(), v, ImportOptions{Into: into})
	if err == nil {
		t.Fatal("imported without its root")
	}
	if _, err := os.Stat(filepath.Join(into, "index.json")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is named: %v", err)
	}
	_, v = seed(t, second())
	err = Import(t.Context(), v, ImportOptions{Into: into})
	if !errors.Is(err, store.ErrMissing) || !strings.Contains(err.Error(), "hint: ") || strings.Count(err.Error(), store.ErrMissing.Error()) != 2 {
		t.Errorf("got %v", err)
	}
}

func TestRawRefuses(t *testing.T) {
	truth := int64(len(strings.Repeat("root b", 5000)))
	for name, size := range map[string]int64{"more than said": truth - 1, "less than said": truth + 1, "another digest": 0} {
		s := second()
		s.rawSize = size
		v := bundle(t, s)
		c, open, err := Raw(v, bundles.RootErofs)
		if err != nil {
			t.Fatal(err)
		}
		r, err := open()
		if err != nil {
			t.Fatal(err)
		}
		if size == 0 {
			r.(*raw).want.Digest = store.FromBytes([]byte("x"))
		}
		b, err := io.ReadAll(r)
		if !errors.Is(err, store.ErrMismatch) || int64(len(b)) > c.Size {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}
