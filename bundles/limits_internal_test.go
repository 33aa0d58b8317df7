package bundles

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"testing"

	"holdfast.dev/holdfast/airgap/store"
)

func TestTarHeaders(t *testing.T) {
	for _, size := range []int64{0, 1, maxUSTAR, maxUSTAR + 1, 1 << 50} {
		b, err := tarHeader(blobName(store.FromBytes(nil)), size)
		if err != nil {
			t.Fatal(err)
		}
		h, err := tar.NewReader(bytes.NewReader(b)).Next()
		if err != nil || h.Size != size || h.Name != blobName(store.FromBytes(nil)) || h.ModTime.Unix() != 0 {
			t.Errorf("size %d: got %+v, %v", size, h, err)
		}
		if len(b)%block != 0 || (size <= maxUSTAR) != (len(b) == block) {
			t.Errorf("size %d: a header of %d bytes", size, len(b))
		}
	}
}

func TestLimits(t *testing.T) {
	read := func(c store.Content, _ bool) ([]byte, error) { return make([]byte, c.Size), nil }
	blob := func(i int, size int64) store.Content {
		return store.Content{Digest: store.FromBytes(fmt.Append(nil, i)), Size: size}
	}
	w := walker{read: read, sizes: map[store.Digest]int64{}}
	for i := range MaxBlobs {
		if _, err := w.enter(blob(i, 1)); err != nil {
			t.Fatal(err)
		}
	}
	if known, err := w.enter(blob(5, 1)); err != nil || !known {
		t.Errorf("a known blob: %v, %v", known, err)
	}
	if _, err := w.enter(blob(5, 2)); !errors.Is(err, ErrRefused) {
		t.Errorf("two sizes: got %v", err)
	}
	if _, err := w.enter(blob(MaxBlobs, 1)); !errors.Is(err, ErrRefused) {
		t.Errorf("too many blobs: got %v", err)
	}
	w = walker{read: read, sizes: map[store.Digest]int64{}}
	if _, err := w.small(blob(0, MaxManifest+1)); !errors.Is(err, ErrRefused) {
		t.Errorf("a large manifest: got %v", err)
	}
	var err error
	for i := 0; err == nil; i++ {
		if i > maxManifests/MaxManifest {
			t.Fatal("no limit on all manifests together")
		}
		_, err = w.small(blob(i, MaxManifest))
	}
	if !errors.Is(err, ErrRefused) {
		t.Errorf("many large manifests: got %v", err)
	}
}

func FuzzParseIndex(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"digest":"sha256:","size":1,"annotations":{"dev.holdfast.part":"os"}}]}`))
	f.Fuzz(func(_ *testing.T, b []byte) {
		_, _, _ = parseIndex(b)
		_, _, _, _ = parseIndexJSON(b)
		for _, k := range []string{PartOS, PartImage} {
			_, _, _ = parseManifest(part{kind: k}, b)
		}
	})
}
