package bundles_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles"
)

func randomRoot(seed uint64, blocks int) []byte {
	b := make([]byte, blocks*4096)
	r := rand.New(rand.NewPCG(seed, seed))
	for i := range b {
		b[i] = "abcdefgh"[r.IntN(8)]
	}
	return b
}

// putRoot packs a root as image does.
func putRoot(t *testing.T, s *store.Store, raw []byte, level zstd.EncoderLevel) bundles.File {
	t.Helper()
	var b bytes.Buffer
	z, err := zstd.NewWriter(&b, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(1))
	if err == nil {
		_, err = io.Copy(z, bytes.NewReader(raw))
	}
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return bundles.File{Title: bundles.RootErofs, MediaType: bundles.MediaRoot, Content: put(t, s, b.String()),
		Raw: store.Content{Digest: store.FromBytes(raw), Size: int64(len(raw))}}
}

// rootPair is a pair whose roots are of 400 blocks, and differ in one.
func rootPair(t *testing.T, level zstd.EncoderLevel, change func(in *bundles.ReleaseInput)) (p pair, oldRoot []byte) {
	t.Helper()
	s := openStore(t)
	p.trust = trustFor(t, "official", mine)
	oldRoot = randomRoot(1, 400)
	newRoot := slices.Concat(oldRoot[:200*4096], randomRoot(2, 1), oldRoot[201*4096:])
	in := input(t, s)
	in.OS[0] = putRoot(t, s, oldRoot, level)
	in.OS[2].Content = put(t, s, string(randomRoot(4, 6)[:20001])+"release 07")
	in.SBOM = putSBOM(t, s, "1", "1")
	rel := compose(t, s, in)
	p.base, p.baseDir = pack(t, s, rel, signWith(t, rel, mine)), seed(t, s, rel)
	in = later(t, s)
	in.OS[2].Content = put(t, s, string(randomRoot(4, 6)[:20001])+"release 8")
	in.OS[0] = putRoot(t, s, newRoot, level)
	in.SBOM = putSBOM(t, s, "2", "1")
	change(&in)
	rel = compose(t, s, in)
	p.next = pack(t, s, rel, signWith(t, rel, mine))
	p.diff = packSince(t, p.open(t, p.next), p.open(t, p.base))
	return p, oldRoot
}

func same(*bundles.ReleaseInput) {}

func TestTheRootIsCarriedAsAPatch(t *testing.T) {
	p, oldRoot := rootPair(t, zstd.SpeedDefault, same)
	if len(p.diff) > 40_000 || len(p.next) < 400_000 {
		t.Errorf("a difference of %d bytes from a bundle of %d", len(p.diff), len(p.next))
	}
	base := p.open(t, p.base)
	v := p.open(t, p.diff, base)
	if !bytes.Equal(packSince(t, v, nil), p.next) || !bytes.Equal(packSince(t, v, base), p.diff) {
		t.Error("the whole bundle or the difference, made again, has other bytes")
	}
	d, err := bundles.DiffPacked(t.Context(), v, base, nil)
	if err != nil || d.Size != int64(len(p.diff)) || !slices.ContainsFunc(d.Items, func(it bundles.Item) bool { return it.Patch && it.Name == bundles.UKI }) {
		t.Errorf("priced at %d, the difference is of %d bytes, %v", d.Size, len(p.diff), err)
	}
	if d, err := bundles.Diff(v, base); err != nil || d.Size <= int64(len(p.diff)) {
		t.Errorf("without the patch: %d bytes, %v", d.Size, err)
	}
	var e *bundles.DifferenceError
	if _, err := p.try(p.diff); !errors.As(err, &e) || len(e.Missing) == 0 {
		t.Errorf("alone: got %v", err)
	}
	// On a node the old root is in its slot, with something behind it.
	bases, err := bundles.OpenLayout([]string{p.baseDir}, p.trust)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.try(p.diff, bases...); !errors.Is(err, store.ErrMissing) || !strings.Contains(err.Error(), "not whole") {
		t.Errorf("without the slot: got %v", err)
	}
	slot := func(b []byte) *bundles.Verified {
		return bases[0].WithRoot(func() (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(slices.Concat(b, make([]byte, 8192)))), nil
		})
	}
	onNode := p.open(t, p.diff, slot(oldRoot))
	root, _ := onNode.File(bundles.PartOS, bundles.RootErofs)
	if b, err := onNode.ReadBlob(root.Content); err != nil || store.FromBytes(b) != root.Content.Digest {
		t.Errorf("root.erofs of %d bytes, %v", len(b), err)
	}
	r, err := onNode.OpenBlob(root.Content)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil { // before its end
		t.Error(err)
	}
	// With the slot, the base's own root can be made as well.
	old, _ := bases[0].File(bundles.PartOS, bundles.RootErofs)
	if b, err := slot(oldRoot).ReadBlob(old.Content); err != nil || store.FromBytes(b) != old.Content.Digest {
		t.Errorf("the old root.erofs of %d bytes, %v", len(b), err)
	}
	rotten := bytes.Clone(oldRoot)
	rotten[5000] ^= 1
	if _, err := p.try(p.diff, slot(rotten)); !errors.Is(err, bundles.ErrRefused) || !errors.Is(err, store.ErrMismatch) {
		t.Errorf("a rotten slot: got %v", err)
	}
	if _, err := p.try(p.diff, slot(oldRoot[:4096*100])); !errors.Is(err, bundles.ErrRefused) {
		t.Errorf("a short slot: got %v", err)
	}
}

func TestPatchesThatAreNotMade(t *testing.T) {
	for name, x := range map[string]struct {
		level  zstd.EncoderLevel
		change func(in *bundles.ReleaseInput)
	}{
		"packed in another way": {zstd.SpeedFastest, same},
		"another version":       {zstd.SpeedDefault, func(in *bundles.ReleaseInput) { in.Facts.Version = "0.2.0" }},
	} {
		p, _ := rootPair(t, x.level, x.change)
		if len(p.diff) < 400_000 {
			t.Errorf("%s: a patch all the same", name)
		}
		if got := packSince(t, p.open(t, p.diff, p.open(t, p.base)), nil); !bytes.Equal(got, p.next) {
			t.Errorf("%s: the whole is another", name)
		}
	}
}

// A patch that somebody changed, with index.json to fit, is found by what it
// makes.
func TestAnotherPatchIsRefused(t *testing.T) {
	p, _ := rootPair(t, zstd.SpeedDefault, same)
	base := p.open(t, p.base)
	change := func(f func(es []entry) []entry) error {
		_, err := p.try(retar(t, f(untar(t, p.diff))), base)
		return err
	}
	other := func(es []entry, data []byte) []entry {
		last := len(es) - 1
		from, to := store.FromBytes(es[last].data), store.FromBytes(data)
		index := strings.Replace(string(es[1].data), string(from), string(to), 1)
		es[1].data = []byte(index)
		es[last].h.Name, es[last].data = "blobs/sha256/"+to.Hex(), data
		return es
	}
	if err := change(func(es []entry) []entry {
		b := bytes.Clone(es[len(es)-1].data)
		b[len(b)/2] ^= 1
		return other(es, b)
	}); !errors.Is(err, bundles.ErrRefused) {
		t.Errorf("a changed patch: got %v", err)
	}
	if err := change(func(es []entry) []entry { return es[:len(es)-1] }); !errors.Is(err, bundles.ErrRefused) {
		t.Errorf("without the patch: got %v", err)
	}
	v := p.open(t, p.next)
	root, _ := v.File(bundles.PartOS, bundles.RootErofs)
	verity, _ := v.File(bundles.PartOS, bundles.RootVerity)
	if err := change(func(es []entry) []entry {
		es[1].data = []byte(strings.Replace(string(es[1].data), string(root.Content.Digest), string(verity.Content.Digest), 1))
		return es
	}); !errors.Is(err, bundles.ErrRefused) {
		t.Errorf("a patch for another file: got %v", err)
	}
	if err := change(func(es []entry) []entry {
		n := len(es)
		es[n-1], es[n-2] = es[n-2], es[n-1]
		i := strings.Index(string(es[1].data), `,{"mediaType":"application/vnd.holdfast.patch`)
		j := strings.LastIndex(string(es[1].data), `,{"mediaType":"application/vnd.holdfast.patch`)
		k := strings.LastIndex(string(es[1].data), "]}")
		d := string(es[1].data)
		es[1].data = []byte(d[:i] + d[j:k] + d[i:j] + d[k:])
		return es
	}); !errors.Is(err, bundles.ErrRefused) || !strings.Contains(err.Error(), "not in this order") {
		t.Errorf("patches in another order: got %v", err)
	}
	for i := 0; i < len(p.diff); i += 997 {
		bad := bytes.Clone(p.diff)
		bad[i] ^= 8
		if _, err := p.try(bad, base); !errors.Is(err, bundles.ErrRefused) {
			t.Fatalf("byte %d changed: got %v", i, err)
		}
	}
}
