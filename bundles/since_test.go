package bundles_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles"
)

// pair is a release and the one after it, with an image and a manifest changed.
type pair struct {
	base, next, diff []byte
	trust            bundles.Trust
	baseDir          string // the base as a node has it: without the root
}

// later is the input of the release after that of input.
func later(t testing.TB, s *store.Store) bundles.ReleaseInput {
	in := input(t, s)
	in.Facts.Release = 8
	in.Images[2].Manifest = putImage(t, s, "layer one", "web two")
	in.Manifests[1].Files[0].Content = put(t, s, "kind: Deployment # two\n")
	in.Node = put(t, s, `{"name":"demo","release":8}`)
	in.SBOM = put(t, s, `{"spdxVersion":"SPDX-2.3","packages":[{"name":"a"},{"name":"c"}],"files":[]}`)
	return in
}

func newPair(t *testing.T) pair {
	t.Helper()
	s := openStore(t)
	p := pair{trust: trustFor(t, "official", mine)}
	rel := compose(t, s, input(t, s))
	p.base, p.baseDir = pack(t, s, rel, signWith(t, rel, mine)), seed(t, s, rel)
	rel = compose(t, s, later(t, s))
	p.next = pack(t, s, rel, signWith(t, rel, mine))
	p.diff = packSince(t, p.open(t, p.next), p.open(t, p.base))
	return p
}

func (p pair) open(t *testing.T, b []byte, bases ...*bundles.Verified) *bundles.Verified {
	t.Helper()
	v, err := p.try(b, bases...)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func (p pair) try(b []byte, bases ...*bundles.Verified) (*bundles.Verified, error) {
	return bundles.OpenAt(context.Background(), bytes.NewReader(b), int64(len(b)), p.trust, nil, bases...)
}

func packSince(t *testing.T, v, base *bundles.Verified) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := bundles.PackSince(t.Context(), &b, v, base, nil); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestADifferenceAndItsBaseAreTheWhole(t *testing.T) {
	p := newPair(t)
	base := p.open(t, p.base)
	v := p.open(t, p.diff, base)
	if since, ok := v.Since(); !ok || since != (bundles.Since{Release: 7, Index: base.Index()}) || v.Facts().Release != 8 {
		t.Errorf("release %d since %v, %v", v.Facts().Release, since, ok)
	}
	if !bytes.Equal(packSince(t, v, nil), p.next) {
		t.Error("the whole bundle, made again from the difference and its base, has other bytes")
	}
	if !bytes.Equal(packSince(t, v, base), p.diff) {
		t.Error("the difference, made again, has other bytes")
	}
	if s, err := bundles.Inspect(v); err != nil || s.Packages != 2 || s.Since == nil || s.Since.Release != 7 {
		t.Errorf("summary %+v, %v", s, err)
	}
	carried := map[string]bool{}
	for _, e := range untar(t, p.diff) {
		carried[string(e.data)] = true
	}
	for blob, want := range map[string]bool{"web two": true, "kind: Deployment # two\n": true, "layer one": false, "the root": false, "the kernel": false, "kind: Namespace\n": false} {
		if carried[blob] != want {
			t.Errorf("%q: carried is %v", blob, carried[blob])
		}
	}
}

func TestADifferenceOnANode(t *testing.T) {
	p := newPair(t)
	bases, err := bundles.OpenLayout([]string{t.TempDir(), p.baseDir}, p.trust)
	if err != nil {
		t.Fatal(err)
	}
	v := p.open(t, p.diff, bases...)
	blobs, err := v.Blobs()
	if err != nil {
		t.Fatal(err)
	}
	var missing []store.Digest
	for _, b := range blobs {
		got, err := v.ReadBlob(b.Content)
		if errors.Is(err, store.ErrMissing) {
			missing = append(missing, b.Digest)
		} else if err != nil || store.FromBytes(got) != b.Digest {
			t.Errorf("%s: %v", b.Digest, err)
		}
	}
	want := []store.Digest{store.FromBytes([]byte("the root")), store.FromBytes([]byte("the verity tree"))}
	slices.Sort(want)
	if !slices.Equal(missing, want) {
		t.Errorf("missing %v, want root and verity tree, which have partitions", missing)
	}
}

func TestADifferenceAloneSaysWhatItNeeds(t *testing.T) {
	p := newPair(t)
	_, err := p.try(p.diff)
	var d *bundles.DifferenceError
	if !errors.As(err, &d) || errors.Is(err, bundles.ErrRefused) {
		t.Fatalf("got %v, want a DifferenceError that is no refusal", err)
	}
	if d.Since.Release != 7 || d.Facts.Release != 8 || len(d.Accepted.Keys) != 1 || !strings.Contains(err.Error(), "a difference from release 7 (sha256:") {
		t.Errorf("got %+v", d)
	}
	base, next := p.open(t, p.base), p.open(t, p.next)
	whole, err := next.Blobs()
	if err != nil {
		t.Fatal(err)
	}
	if carried := len(untar(t, p.diff)) - 2; carried+len(d.Missing) != len(whole) {
		t.Errorf("%d carried and %d missing, want %d together", carried, len(d.Missing), len(whole))
	}
	for _, c := range d.Missing {
		if _, err := base.ReadBlob(c); err != nil {
			t.Error(err)
		}
	}
	if _, err := bundles.Open(t.Context(), bytes.NewReader(p.diff), p.trust, nil); !errors.As(err, &d) {
		t.Errorf("as a stream: got %v", err)
	}
}

func TestEveryFlippedByteOfADifferenceIsRefused(t *testing.T) {
	p := newPair(t)
	base := p.open(t, p.base)
	bad := bytes.Clone(p.diff)
	for i := 0; i < len(bad); i += 23 {
		bad[i] ^= 1 << (i % 8)
		if _, err := p.try(bad, base); !errors.Is(err, bundles.ErrRefused) {
			t.Fatalf("byte %d changed, with a base: got %v, want ErrRefused", i, err)
		}
		// Alone, only what it says of its base cannot be checked.
		_, err := p.try(bad)
		var d *bundles.DifferenceError
		if errors.As(err, &d) && d.Since.Release == 7 && d.Since.Index == base.Index() || err == nil {
			t.Fatalf("byte %d changed, alone: got %v", i, err)
		}
		bad[i] = p.diff[i]
	}
}

func TestWrongDifferencesAreRefused(t *testing.T) {
	p := newPair(t)
	base := p.open(t, p.base)
	find := func(es []entry, data string) int {
		return slices.IndexFunc(es, func(e entry) bool { return string(e.data) == data })
	}
	blob := func(data string) entry {
		return entry{tar.Header{Name: "blobs/sha256/" + store.FromBytes([]byte(data)).Hex(), Size: int64(len(data)), Mode: 0o644, Format: tar.FormatUSTAR}, []byte(data)}
	}
	insert := func(es []entry, e entry) []entry {
		at := len(es)
		for at > 0 && es[at-1].h.Name > e.h.Name && len(es)-at < 4 {
			at--
		}
		return slices.Insert(es, at, e)
	}
	rename := func(es []entry, from, to string) []entry {
		es[1].data = []byte(strings.Replace(string(es[1].data), from, to, 1))
		es[1].h.Size = int64(len(es[1].data))
		return es
	}
	for name, x := range map[string]struct {
		change func(es []entry) []entry
		with   string // in the error with the base
		alone  bool   // cannot be seen without the base
	}{
		"a blob that neither has":  {func(es []entry) []entry { i := find(es, "web two"); return slices.Delete(es, i, i+1) }, "release 7 (sha256:", true},
		"an unreachable blob":      {func(es []entry) []entry { return append(es, blob("x")) }, "the end", false},
		"one in the middle":        {func(es []entry) []entry { return slices.Insert(es, len(es)-1, blob("x")) }, "found", false},
		"a blob of the base alone": {func(es []entry) []entry { return append(es, blob("web")) }, "the end", false},
		"a blob that both have":    {func(es []entry) []entry { return insert(es, blob("layer one")) }, "", true},
		"a blob twice":             {func(es []entry) []entry { return append(es, es[len(es)-1]) }, "the end", false},
		"another order":            {func(es []entry) []entry { n := len(es); es[n-1], es[n-2] = es[n-2], es[n-1]; return es }, "found", false},
		"a manifest left out":      {func(es []entry) []entry { return slices.Delete(es, 8, 9) }, "another header", false},
		"another number":           {func(es []entry) []entry { return rename(es, `since":"7"`, `since":"6"`) }, "which is release 7", true},
		"a number too high":        {func(es []entry) []entry { return rename(es, `since":"7"`, `since":"8"`) }, "not before release 8", false},
		"no number":                {func(es []entry) []entry { return rename(es, `since":"7"`, `since":"x"`) }, `"x"`, false},
		"a leading zero":           {func(es []entry) []entry { return rename(es, `since":"7"`, `since":"07"`) }, "canonical", false},
		"another base": {func(es []entry) []entry {
			return rename(es, base.Index().Digest.Hex(), store.FromBytes([]byte("x")).Hex())
		}, "it is a difference from release 7 (sha256:" + store.FromBytes([]byte("x")).Hex(), true},
		"as if it were whole": {func(es []entry) []entry {
			i, j := strings.LastIndex(string(es[1].data), `,{"mediaType"`), strings.LastIndex(string(es[1].data), "]}")
			return rename(es, string(es[1].data[i:j]), "")
		}, "another header", false},
	} {
		es := untar(t, p.diff)
		if !bytes.Equal(retar(t, es), p.diff) {
			t.Fatal("packing the files again gives another bundle: the cases prove nothing")
		}
		b := retar(t, x.change(es))
		if _, err := p.try(b, base); !errors.Is(err, bundles.ErrRefused) || !strings.Contains(err.Error(), x.with) {
			t.Errorf("%s: got %v, want ErrRefused and %q", name, err, x.with)
		}
		_, err := p.try(b)
		var d *bundles.DifferenceError
		if !x.alone && !errors.Is(err, bundles.ErrRefused) || x.alone && !errors.As(err, &d) {
			t.Errorf("%s, alone: got %v", name, err)
		}
	}
}

func TestOtherBasesAreRefused(t *testing.T) {
	p := newPair(t)
	next := p.open(t, p.next)
	_, err := p.try(p.diff, next)
	var d *bundles.DifferenceError
	if !errors.Is(err, bundles.ErrRefused) || !errors.As(err, &d) || len(d.Given) != 1 || !strings.Contains(err.Error(), "what it was opened with is release 8 (") {
		t.Errorf("another release: got %v", err)
	}
	s := openStore(t)
	in := input(t, s)
	in.Facts.Name = "other"
	rel := compose(t, s, in)
	other := p.open(t, pack(t, s, rel, signWith(t, rel, mine)))
	for name, base := range map[string]*bundles.Verified{"itself": next, "of another site": other} {
		if err := bundles.PackSince(t.Context(), io.Discard, next, base, nil); err == nil {
			t.Errorf("packed since %s", name)
		}
	}
	if err := bundles.PackSince(t.Context(), io.Discard, p.open(t, p.base), next, nil); err == nil || !strings.Contains(err.Error(), "not before release 7") {
		t.Errorf("backwards: got %v", err)
	}
}

func TestABaseThatRottedIsFound(t *testing.T) {
	p := newPair(t)
	// A node whose layout lost a blob, and one in which a blob changed.
	name := p.baseDir + "/blobs/sha256/" + store.FromBytes([]byte("layer one")).Hex()
	mustWrite(t, name, []byte("layer 0ne"))
	bases, err := bundles.OpenLayout([]string{p.baseDir}, p.trust)
	if err != nil {
		t.Fatal(err)
	}
	c := store.Content{Digest: store.FromBytes([]byte("layer one")), Size: 9}
	if _, err := p.open(t, p.diff, bases...).ReadBlob(c); !errors.Is(err, store.ErrMismatch) {
		t.Errorf("a changed blob: got %v", err)
	}
	mustWrite(t, name, nil)
	if _, err := p.try(p.diff, bases...); !errors.Is(err, bundles.ErrRefused) || !errors.Is(err, store.ErrMissing) || !strings.Contains(err.Error(), "is not whole") {
		t.Errorf("a lost blob: got %v", err)
	}
}

func TestADifferenceOfADifference(t *testing.T) {
	p := newPair(t)
	s := openStore(t)
	in := later(t, s)
	in.Facts.Release = 9
	in.OS[0].Content = put(t, s, "the root, new")
	rel := compose(t, s, in)
	third := pack(t, s, rel, signWith(t, rel, mine))
	two := p.open(t, p.diff, p.open(t, p.base))
	diff := packSince(t, p.open(t, third), two)
	if got := packSince(t, p.open(t, diff, two), nil); !bytes.Equal(got, third) {
		t.Error("7, 8 since 7 and 9 since 8 do not give 9")
	}
}
