package bundles_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"holdfast.dev/holdfast/bundles"
)

func openSeries(b []byte, trust bundles.Trust, bases ...*bundles.Verified) ([]*bundles.Verified, error) {
	return bundles.OpenSeries(context.Background(), bytes.NewReader(b), int64(len(b)), trust, nil, bases...)
}

func numbers(vs []*bundles.Verified) (out []uint64) {
	for _, v := range vs {
		out = append(out, v.Facts().Release)
	}
	return out
}

func TestASeriesIsItsBundlesJoined(t *testing.T) {
	p := newPair(t)
	base := p.open(t, p.base)
	next := p.open(t, p.next)
	var b bytes.Buffer
	if err := bundles.PackSeries(t.Context(), &b, []*bundles.Verified{base, next}, nil, nil); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.Bytes(), slices.Concat(p.base, p.diff)) {
		t.Error("a series is not the first release and the difference of the second, joined")
	}
	for name, file := range map[string][]byte{"difference": b.Bytes(), "whole": slices.Concat(p.base, p.next), "one": p.base} {
		vs, err := openSeries(file, p.trust)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if want := []uint64{7, 8}; name != "one" && !slices.Equal(numbers(vs), want) {
			t.Errorf("%s: releases %v", name, numbers(vs))
		}
		last := vs[len(vs)-1]
		if got := packSince(t, last, nil); name != "one" && !bytes.Equal(got, p.next) {
			t.Errorf("%s: the second release, made whole from the file, has other bytes", name)
		}
	}
	r := bytes.NewReader(b.Bytes())
	sections, err := bundles.Sections(t.Context(), r, r.Size())
	if err != nil || len(sections) != 2 || sections[0].Size != int64(len(p.base)) || sections[1].Offset != int64(len(p.base)) ||
		sections[1].Index != next.Index() || sections[1].Facts.Release != 8 {
		t.Errorf("%+v, %v", sections, err)
	}
	if _, err := bundles.OpenAt(t.Context(), r, r.Size(), p.trust, nil); !errors.Is(err, bundles.ErrRefused) || !strings.Contains(err.Error(), "several bundles") {
		t.Errorf("as one bundle: %v", err)
	}
}

func TestASeriesSinceABase(t *testing.T) {
	p := newPair(t)
	base := p.open(t, p.base)
	var b bytes.Buffer
	if err := bundles.PackSeries(t.Context(), &b, []*bundles.Verified{p.open(t, p.next)}, base, nil); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.Bytes(), p.diff) {
		t.Error("a series of one since a base is not the difference")
	}
	if vs, err := openSeries(b.Bytes(), p.trust, base); err != nil || len(vs) != 1 {
		t.Errorf("%v, %v", vs, err)
	}
	var d *bundles.DifferenceError
	if _, err := openSeries(b.Bytes(), p.trust); !errors.As(err, &d) {
		t.Errorf("a difference alone: %v", err)
	}
	_, err := openSeries(slices.Concat(p.diff, p.next), p.trust)
	if errors.As(err, &d) || err == nil || !strings.Contains(err.Error(), "bundle 1 of 2") || !strings.Contains(err.Error(), "open it together") {
		t.Errorf("a difference in a series, without its base: %v", err)
	}
}

func TestWrongSeriesAreRefused(t *testing.T) {
	p := newPair(t)
	later := p.trust
	later.MinRelease = 8
	for _, c := range []struct {
		name  string
		file  []byte
		trust bundles.Trust
		want  string
	}{
		{"falling", slices.Concat(p.next, p.base), p.trust, "bundle 2 of 2"},
		{"twice", slices.Concat(p.base, p.base), p.trust, "not higher than 7"},
		{"of another site", slices.Concat(p.base, p.next), bundles.Trust{Policy: p.trust.Policy, Zone: "official", Name: "other"}, "it is of site demo"},
		{"behind it", slices.Concat(p.base, p.next, []byte("x")), p.trust, "bundle 3 of 3"},
		{"zeros between", slices.Concat(p.base, make([]byte, 512), p.next), p.trust, "bundle 2 of 2"},
		{"cut off", slices.Concat(p.base, p.next[:len(p.next)-600]), p.trust, "bundle 2 of 2"},
		{"too many", bytes.Repeat(p.base, 17), p.trust, "more than 16"},
		{"nothing", nil, p.trust, "cut off"},
	} {
		if _, err := openSeries(c.file, c.trust); !errors.Is(err, bundles.ErrRefused) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	// The lowest number is about what is to be installed in the end.
	if _, err := openSeries(slices.Concat(p.base, p.diff), later); err != nil {
		t.Error(err)
	}
	if _, err := openSeries(p.base, later); !errors.Is(err, bundles.ErrRefused) {
		t.Errorf("an old release alone: %v", err)
	}
	var b bytes.Buffer
	if err := bundles.PackSeries(t.Context(), &b, []*bundles.Verified{p.open(t, p.next), p.open(t, p.base)}, nil, nil); err == nil {
		t.Error("a falling series was packed")
	}
}

// brokenAt fails from a place on.
type brokenAt struct {
	*bytes.Reader
	at int64
}

func (b brokenAt) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > b.at {
		return 0, errors.New("the stick is gone")
	}
	return b.Reader.ReadAt(p, off)
}

func TestAFailingReaderOfASeriesIsNoVerdict(t *testing.T) {
	p := newPair(t)
	file := slices.Concat(p.base, p.next)
	for _, at := range []int64{100, int64(len(p.base)) - 100, int64(len(p.base)) + 100} {
		_, err := bundles.OpenSeries(t.Context(), brokenAt{bytes.NewReader(file), at}, int64(len(file)), p.trust, nil)
		if err == nil || errors.Is(err, bundles.ErrRefused) || !strings.Contains(err.Error(), "the stick is gone") {
			t.Errorf("failing at %d: %v", at, err)
		}
	}
}

func FuzzSections(f *testing.F) {
	b := demo(f)
	f.Add(b)
	f.Add(b[:2000])
	f.Add(slices.Concat(b, b))
	f.Fuzz(func(t *testing.T, b []byte) {
		sections, err := bundles.Sections(t.Context(), bytes.NewReader(b), int64(len(b)))
		if err != nil && !errors.Is(err, bundles.ErrRefused) {
			t.Fatal(err)
		}
		at := int64(0)
		for _, s := range sections {
			if s.Offset != at || s.Size < 0 {
				t.Fatalf("%+v begins at %d", s, at)
			}
			at += s.Size
		}
		if err == nil && at != int64(len(b)) {
			t.Fatalf("they end at %d of %d", at, len(b))
		}
	})
}
