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
	"testing/iotest"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles"
	"holdfast.dev/holdfast/signing"
)

func TestComposePackOpen(t *testing.T) {
	b := demo(t)
	if !bytes.Equal(b, demo(t)) {
		t.Fatal("two bundles of one release differ")
	}
	if got := store.FromBytes(b); got != goldenBundle {
		t.Errorf("the bundle is %s, want %s: the format changed", got, goldenBundle)
	}
	v, err := openBytes(t, b, trustFor(t, "official", mine))
	if err != nil {
		t.Fatal(err)
	}
	if f := v.Facts(); f.Name != "demo" || f.Release != 7 || v.RootHash() != strings.Repeat("a", 64) {
		t.Errorf("facts %+v", f)
	}
	if n, err := v.NodeJSON(); err != nil || string(n) != `{"name":"demo","release":7}` {
		t.Errorf("node.json %s, %v", n, err)
	}
	ms, err := v.Manifests("db")
	if err != nil || len(ms) != 2 || ms[0].Title != "00-namespace.yaml" || string(ms[1].Data) != "kind: StatefulSet\n" {
		t.Errorf("manifests %v, %v", ms, err)
	}
	if _, err := v.Manifests("none"); err == nil {
		t.Error("manifests of a component that is not there")
	}
	if im := v.Images(); len(im) != 3 || im[2].Name != "registry.example/web:v2" || im[2].Component != "web" {
		t.Errorf("images %v", im)
	}
	if !slices.Equal(v.Components(), []string{"db", "web"}) {
		t.Errorf("components %v", v.Components())
	}
	blobs, err := v.Blobs()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range blobs {
		if got := store.FromBytes(b[c.Offset : c.Offset+c.Size]); got != c.Digest {
			t.Errorf("at %d there is %s, want %s", c.Offset, got, c.Digest)
		}
	}
	s, err := bundles.Inspect(v)
	if err != nil || s.Packages != 2 || s.Images != 3 || s.Blobs != len(blobs) || len(s.SignedBy) != 1 || s.Parts[0].Files[0].Title != bundles.RootErofs {
		t.Errorf("summary %+v, %v", s, err)
	}
}

// goldenBundle is the digest of demo's bundle.
const goldenBundle = store.Digest("sha256:663029d666e2f4714c64a28b08bd2c7c16aaa4e17f320b25028c915d2f28d1ae")

func TestTheSignaturesComeBeforeAnyLargeBlob(t *testing.T) {
	b := demo(t)
	// What is left of the bundle after the signatures need not be there for
	// a stranger's signature to be found out.
	end := bytes.Index(b, []byte(`"docker-manifest-digest"`))
	r := io.MultiReader(bytes.NewReader(b[:end+1024]), iotest.ErrReader(errors.New("read too far")))
	_, err := bundles.Open(t.Context(), r, trustFor(t, "official", stranger), nil)
	if !errors.Is(err, signing.ErrUntrusted) || !errors.Is(err, bundles.ErrRefused) {
		t.Errorf("got %v, want ErrUntrusted", err)
	}
}

func TestEveryFlippedByteIsRefused(t *testing.T) {
	b := demo(t)
	trust := trustFor(t, "official", mine)
	bad := bytes.Clone(b)
	step := 1
	if testing.Short() {
		step = 11
	}
	for i := 0; i < len(b); i += step {
		bad[i] = b[i] ^ 1<<(i%8)
		if _, err := openBytes(t, bad, trust); !errors.Is(err, bundles.ErrRefused) {
			t.Fatalf("byte %d of %d changed from %#x to %#x: got %v, want ErrRefused", i, len(b), b[i], bad[i], err)
		}
		bad[i] = b[i]
	}
}

func TestEveryTruncationAndExtensionIsRefused(t *testing.T) {
	b := demo(t)
	trust := trustFor(t, "official", mine)
	for n := 0; n < len(b); n += 37 {
		if _, err := openBytes(t, b[:n], trust); !errors.Is(err, bundles.ErrRefused) {
			t.Fatalf("cut at %d: got %v, want ErrRefused", n, err)
		}
	}
	for _, more := range []string{"\x00", "x", strings.Repeat("\x00", 512), strings.Repeat("\x00", 10240)} {
		if _, err := openBytes(t, append(bytes.Clone(b), more...), trust); !errors.Is(err, bundles.ErrRefused) {
			t.Errorf("%d bytes more: got %v, want ErrRefused", len(more), err)
		}
	}
}

func TestTrust(t *testing.T) {
	s := openStore(t)
	rel := compose(t, s, input(t, s))
	one, both := pack(t, s, rel, signWith(t, rel, mine)), pack(t, s, rel, signWith(t, rel, second, mine))
	with := func(tr bundles.Trust, change func(*bundles.Trust)) bundles.Trust { change(&tr); return tr }
	official := trustFor(t, "official", mine)
	for _, x := range []struct {
		name  string
		b     []byte
		trust bundles.Trust
		want  error // nil is accepted
	}{
		{"one of one", one, official, nil},
		{"two of two", both, trustFor(t, "official", mine, second), nil},
		{"any zone", one, with(official, func(tr *bundles.Trust) { tr.Zone = bundles.AnyZone }), nil},
		{"the same number", one, with(official, func(tr *bundles.Trust) { tr.MinRelease = 7 }), nil},
		{"the right name", one, with(official, func(tr *bundles.Trust) { tr.Name = "demo" }), nil},
		{"one of two", one, trustFor(t, "official", mine, second), signing.ErrUntrusted},
		{"another key", one, trustFor(t, "official", stranger), signing.ErrUntrusted},
		{"no policy", one, bundles.Trust{Zone: "official"}, signing.ErrUntrusted},
		{"no zone", one, with(official, func(tr *bundles.Trust) { tr.Zone = "" }), signing.ErrUntrusted},
		{"a zone without rule", one, with(official, func(tr *bundles.Trust) { tr.Zone = "secret" }), signing.ErrUntrusted},
		{"a zone whose rule is met", one, trustFor(t, "secret", mine), bundles.ErrRefused},
		{"any zone, no rule for it", one, with(trustFor(t, "secret", mine), func(tr *bundles.Trust) { tr.Zone = bundles.AnyZone }), signing.ErrUntrusted},
		{"too old", one, with(official, func(tr *bundles.Trust) { tr.MinRelease = 8 }), bundles.ErrRefused},
		{"another site", one, with(official, func(tr *bundles.Trust) { tr.Name = "other" }), bundles.ErrRefused},
	} {
		_, err := openBytes(t, x.b, x.trust)
		if !errors.Is(err, x.want) {
			t.Errorf("%s: got %v, want %v", x.name, err, x.want)
		}
		if x.want != nil && !errors.Is(err, bundles.ErrRefused) {
			t.Errorf("%s: %v does not wrap ErrRefused", x.name, err)
		}
	}
}

type entry struct {
	h    tar.Header
	data []byte
}

func untar(t *testing.T, b []byte) []entry {
	t.Helper()
	var es []entry
	r := tar.NewReader(bytes.NewReader(b))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return es
		}
		if err != nil {
			t.Fatal(err)
		}
		d, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		es = append(es, entry{*h, d})
	}
}

func retar(t *testing.T, es []entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range es {
		if err := w.WriteHeader(&e.h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestOtherTarsAreRefused(t *testing.T) {
	b := demo(t)
	trust := trustFor(t, "official", mine)
	if !bytes.Equal(retar(t, untar(t, b)), b) {
		t.Fatal("packing the files again gives another bundle: the cases below prove nothing")
	}
	unreachable := entry{tar.Header{Name: "blobs/sha256/" + store.FromBytes([]byte("x")).Hex(), Size: 1, Mode: 0o644, Format: tar.FormatUSTAR}, []byte("x")}
	for name, change := range map[string]func(es []entry) []entry{
		"no file":             func([]entry) []entry { return nil },
		"a file missing":      func(es []entry) []entry { return slices.Delete(es, 9, 10) },
		"the last missing":    func(es []entry) []entry { return es[:len(es)-1] },
		"a file twice":        func(es []entry) []entry { return slices.Insert(es, 9, es[9]) },
		"the last twice":      func(es []entry) []entry { return append(es, es[len(es)-1]) },
		"an unreachable blob": func(es []entry) []entry { return append(es, unreachable) },
		"one in the middle":   func(es []entry) []entry { return slices.Insert(es, 9, unreachable) },
		"another order":       func(es []entry) []entry { es[9], es[10] = es[10], es[9]; return es },
		"index first":         func(es []entry) []entry { es[0], es[1] = es[1], es[0]; return es },
		"a wrong name":        func(es []entry) []entry { es[9].h.Name = "blobs/sha256/x"; return es },
		"an absolute name":    func(es []entry) []entry { es[9].h.Name = "/" + es[9].h.Name; return es },
		"an escape":           func(es []entry) []entry { es[9].h.Name = "../" + es[9].h.Name; return es },
		"a symlink": func(es []entry) []entry {
			es[9] = entry{tar.Header{Name: es[9].h.Name, Typeflag: tar.TypeSymlink, Linkname: "/etc/shadow", Mode: 0o644, Format: tar.FormatUSTAR}, nil}
			return es
		},
		"a hard link": func(es []entry) []entry {
			es[9] = entry{tar.Header{Name: es[9].h.Name, Typeflag: tar.TypeLink, Linkname: es[8].h.Name, Mode: 0o644, Format: tar.FormatUSTAR}, nil}
			return es
		},
		"a device": func(es []entry) []entry {
			es[9] = entry{tar.Header{Name: es[9].h.Name, Typeflag: tar.TypeChar, Mode: 0o644, Format: tar.FormatUSTAR}, nil}
			return es
		},
		"a directory": func(es []entry) []entry {
			return slices.Insert(es, 2, entry{tar.Header{Name: "blobs/", Typeflag: tar.TypeDir, Mode: 0o755, Format: tar.FormatUSTAR}, nil})
		},
		"another mode":  func(es []entry) []entry { es[9].h.Mode = 0o4755; return es },
		"another owner": func(es []entry) []entry { es[9].h.Uname = "root"; return es },
		"a PAX record": func(es []entry) []entry {
			es[9].h.Format = tar.FormatPAX
			es[9].h.PAXRecords = map[string]string{"comment": "x"}
			return es
		},
		"another layout version": func(es []entry) []entry {
			es[0].data = []byte(strings.Replace(string(es[0].data), "1.0.0", "1.0.1", 1))
			return es
		},
		"a space in index.json": func(es []entry) []entry {
			es[1].data = append(es[1].data, '\n')
			es[1].h.Size++
			return es
		},
		"a large index.json": func(es []entry) []entry {
			es[1].data = bytes.Repeat([]byte(" "), 1<<20)
			es[1].h.Size = 1 << 20
			return es
		},
	} {
		if _, err := openBytes(t, retar(t, change(untar(t, b))), trust); !errors.Is(err, bundles.ErrRefused) {
			t.Errorf("%s: got %v, want ErrRefused", name, err)
		}
	}
}

func TestErrorsSayWhere(t *testing.T) {
	b := demo(t)
	i := bytes.Index(b, []byte("kind: StatefulSet"))
	b[i] = 'K'
	_, err := openBytes(t, b, trustFor(t, "official", mine))
	for _, want := range []string{"blobs/sha256/", " at offset ", "digest mismatch", "its bytes are sha256:", "hint: "} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q in it", err, want)
		}
	}
}

func TestAFailingReaderIsNoVerdict(t *testing.T) {
	b := demo(t)
	broken := errors.New("broken stick")
	for _, n := range []int{0, 100, 5000} {
		r := io.MultiReader(bytes.NewReader(b[:n]), iotest.ErrReader(broken))
		if _, err := bundles.Open(t.Context(), r, trustFor(t, "official", mine), nil); !errors.Is(err, broken) || errors.Is(err, bundles.ErrRefused) {
			t.Errorf("after %d bytes: got %v", n, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := bundles.Open(ctx, bytes.NewReader(b), trustFor(t, "official", mine), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v", err)
	}
}

func TestAStream(t *testing.T) {
	b := demo(t)
	var last int64
	v, err := bundles.Open(t.Context(), iotest.HalfReader(bytes.NewReader(b)), trustFor(t, "official", mine), func(done, _ int64) { last = done })
	if err != nil {
		t.Fatal(err)
	}
	if last != int64(len(b)) {
		t.Errorf("progress ended at %d of %d", last, len(b))
	}
	if _, err := v.NodeJSON(); err == nil || !strings.Contains(err.Error(), "hint: ") {
		t.Errorf("got %v, want a hint", err)
	}
	if s, err := bundles.Inspect(v); err != nil || s.Packages != -1 {
		t.Errorf("got %+v, %v", s, err)
	}
}

func TestABundleThatChangesAfterwards(t *testing.T) {
	b := demo(t)
	v, err := openBytes(t, b, trustFor(t, "official", mine))
	if err != nil {
		t.Fatal(err)
	}
	b[bytes.Index(b, []byte(`{"name":"demo","release":7}`))] = '['
	if _, err := v.NodeJSON(); !errors.Is(err, store.ErrMismatch) {
		t.Errorf("got %v, want ErrMismatch", err)
	}
}

func FuzzOpen(f *testing.F) {
	b := demo(f)
	trust := trustFor(f, "official", mine)
	f.Add(b)
	f.Add(b[:len(b)/2])
	f.Fuzz(func(t *testing.T, in []byte) {
		_, err := openBytes(t, in, trust)
		if err == nil && !bytes.Equal(in, b) {
			t.Fatal("something else than the bundle was accepted")
		}
		if err != nil && !errors.Is(err, bundles.ErrRefused) {
			t.Fatal(err)
		}
	})
}

func TestOpenSomethingElse(t *testing.T) {
	_, err := bundles.Open(t.Context(), bytes.NewReader(bytes.Repeat([]byte("\x1b[31m"), 1000)), bundles.Trust{Zone: bundles.AnyZone}, nil)
	if !errors.Is(err, bundles.ErrRefused) || !strings.Contains(err.Error(), "is no holdfast bundle") || strings.Contains(err.Error(), "[31m") {
		t.Errorf("got %v", err)
	}
}
