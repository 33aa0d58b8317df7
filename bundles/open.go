package bundles

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/signing"
)

// AnyZone as Trust.Zone takes a release for whichever zone it says it is for,
// if the policy has a rule for that zone and the rule is met.
const AnyZone = "*"

// Trust is what a release must meet. The zero Trust accepts nothing.
type Trust struct {
	Policy     signing.Policy
	Zone       string // AnyZone is a choice to be made knowingly
	Name       string // of the site; empty for any
	MinRelease uint64 // a lower release number is refused
}

// admit checks a release index and its signatures. The index is parsed only
// once its signatures are good, except to learn its zone.
func (t Trust) admit(index []byte, d store.Digest, sigs []signing.Signature) (signing.Accepted, error) {
	zone := t.Zone
	if zone == AnyZone {
		f, _, err := parseIndex(index)
		if err != nil {
			return signing.Accepted{}, refuse(err)
		}
		zone = f.Zone
	}
	acc, err := signing.Verify(t.Policy, zone, string(d), sigs)
	if err != nil {
		return signing.Accepted{}, refuse(err)
	}
	f, _, err := parseIndex(index)
	if err != nil {
		return signing.Accepted{}, refuse(err)
	}
	var errs []error
	if f.Zone != zone {
		errs = append(errs, fmt.Errorf("it is for zone %s, not %s", f.Zone, zone))
	}
	if t.Name != "" && f.Name != t.Name {
		errs = append(errs, fmt.Errorf("it is of site %s, not %s", f.Name, t.Name))
	}
	if f.Release < t.MinRelease {
		errs = append(errs, fmt.Errorf("its release number is %d, the lowest allowed is %d", f.Release, t.MinRelease))
	}
	if err := errors.Join(errs...); err != nil {
		return signing.Accepted{}, refuse(err)
	}
	return acc, nil
}

// Open verifies a bundle as it streams: signatures and manifests are checked
// before any large blob is read, every byte up to the end of r is accounted
// for, and memory stays below 64 MiB. An error wraps ErrRefused unless r
// itself failed or ctx ended, or it is a [DifferenceError]. The blobs of what
// Open returns cannot be read again; OpenAt's can.
func Open(ctx context.Context, r io.Reader, trust Trust, progress Progress) (*Verified, error) {
	return open(ctx, r, nil, 0, trust, progress, nil)
}

// OpenAt is Open for a bundle of size bytes that can be read at any place. The
// Verified keeps r to read blobs again, and checks them again as it does.
//
// A difference opens only with the release that it was made from, which must
// be one of bases: releases of the node's layouts, or another bundle. Without
// any, the error is a [DifferenceError], and the file itself is good; with the
// wrong ones it also wraps ErrRefused.
func OpenAt(ctx context.Context, r io.ReaderAt, size int64, trust Trust, progress Progress, bases ...*Verified) (*Verified, error) {
	return open(ctx, io.NewSectionReader(r, 0, size), r, size, trust, progress, bases)
}

func open(ctx context.Context, r io.Reader, at io.ReaderAt, size int64, trust Trust, progress Progress, bases []*Verified) (*Verified, error) {
	ra := newReadAhead(ctx, r, size)
	defer ra.close()
	s := &stream{in: ra, at: at, total: size, progress: progress, difference: difference{bases: bases}}
	v, err := s.release(trust)
	if err != nil {
		return nil, fmt.Errorf("cannot open bundle: %w", err)
	}
	return v, nil
}

// stream reads a bundle that can only be one way: each header is derived, and
// the bytes compared with it.
type stream struct {
	in       *readAhead
	at       io.ReaderAt // to read blobs again; may be nil
	off      int64
	total    int64
	progress Progress
	blobs    []Blob
	ahead    []byte // taken, and put back
	difference
}

func (s *stream) release(trust Trust) (*Verified, error) {
	if err := s.file(layoutName, int64(len(layoutJSON)), func(b []byte, at int64) error { return same(b, layoutJSON[at:]) }); err != nil {
		return nil, err
	}
	sg, err := s.index()
	if err != nil {
		return nil, err
	}
	var acc signing.Accepted
	check := func(index []byte, sigs []signing.Signature) (err error) {
		if acc, err = trust.admit(index, sg.index.Digest, sigs); err != nil {
			return err
		}
		return s.findBase(index, sg.index)
	}
	read := s.blob
	if s.since != nil {
		read = s.blobOfDifference
	}
	c, err := walk(sg, check, read)
	if err != nil {
		return nil, err
	}
	if err := s.readPatches(); err != nil {
		return nil, err
	}
	if err := s.nothingElse(); err != nil {
		return nil, err
	}
	if err := s.zeros(2*block, "the end of the archive"); err != nil {
		return nil, err
	}
	switch _, err := s.in.next(1); {
	case err == nil:
		return nil, s.fault("the end", s.off, errors.New("something follows the archive\nhint: one release is wanted here; a file of several bundles is for \"bundle verify\", \"bundle inspect\" and updates of a node"))
	case !errors.Is(err, io.EOF):
		return nil, err
	}
	v := &Verified{contents: c, signed: sg, accepted: acc, blobs: s.blobs, base: s.base}
	if s.at != nil {
		src := bundleSource{s.at, map[store.Digest]Blob{}}
		for _, b := range slices.Concat(s.blobs, s.patchBlobs) {
			if b.Offset > 0 {
				src.blobs[b.Digest] = b
			}
		}
		v.source = src
	}
	if s.since == nil {
		return v, nil
	}
	return v, s.complete(v)
}

// index reads index.json. Its size is in no other place than its header; all
// else in it follows from what it names.
func (s *stream) index() (signed, error) {
	at := s.off
	head, err := s.take(block, indexName)
	if err != nil {
		return signed{}, err
	}
	size, err := strconv.ParseInt(strings.TrimRight(string(head[124:136]), " \x00"), 8, 64)
	if err != nil || size < 0 || size > maxIndex {
		return signed{}, s.fault(indexName, at, fmt.Errorf("no size in the header: found %s", describe(head)))
	}
	want, err := tarHeader(indexName, size)
	if err != nil {
		return signed{}, err
	}
	if !bytes.Equal(head, want) {
		return signed{}, s.fault(indexName, at, fmt.Errorf("another header than the one expected: found %s", describe(head)))
	}
	at = s.off
	b, err := s.take(size, indexName)
	if err != nil {
		return signed{}, err
	}
	rels, sigs, since, err := parseIndexJSON(b)
	if err != nil {
		return signed{}, s.fault(indexName, at, err)
	}
	if len(rels) != 1 || len(sigs) != 1 {
		return signed{}, s.fault(indexName, at, fmt.Errorf("it names %d releases and %d signature manifests, want one of each", len(rels), len(sigs)))
	}
	sg := signed{rels[0], sigs[0]}
	s.since = since
	canon, err := sinceJSON(sg, since)
	if err != nil {
		return signed{}, err
	}
	if !bytes.Equal(b, canon) {
		return signed{}, s.fault(indexName, at, errors.New("not in the canonical form"))
	}
	return sg, s.zeros(padding(size), "the padding of "+indexName)
}

// blob reads the next file, which must be c.
func (s *stream) blob(c store.Content, small bool) ([]byte, error) {
	var keep []byte
	if small {
		keep = make([]byte, 0, c.Size)
	}
	name, h := blobName(c.Digest), sha256.New()
	var start int64
	err := s.file(name, c.Size, func(b []byte, at int64) error {
		if at == 0 {
			start = s.off
		}
		h.Write(b)
		if small {
			keep = append(keep, b...)
		}
		if at+int64(len(b)) < c.Size {
			return nil
		}
		if got := store.SHA256(h.Sum(nil)); got != c.Digest {
			return fmt.Errorf("%w: its bytes are %s\nhint: they were damaged or changed on their way: carry the bundle again", store.ErrMismatch, got)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	s.blobs = append(s.blobs, Blob{c, start})
	return keep, nil
}

// file reads the next file, which must have that name and size, and gives its
// bytes to each with their place in the file; s.off is where they begin. An
// empty file is given once.
func (s *stream) file(name string, size int64, each func(b []byte, at int64) error) error {
	want, err := tarHeader(name, size)
	if err != nil {
		return err
	}
	start := s.off
	head, err := s.take(int64(len(want)), name)
	if err != nil {
		return err
	}
	if !bytes.Equal(head, want) {
		return s.fault(name, start, fmt.Errorf("another header than the one expected: found %s", describe(head)))
	}
	start = s.off
	for at := int64(0); at < size || size == 0; {
		var b []byte
		if size > 0 {
			if b, err = s.in.next(size - at); err != nil {
				return s.readFault(name, err)
			}
		}
		if err := each(b, at); err != nil {
			return s.fault(name, start, err)
		}
		at += int64(len(b))
		s.advance(len(b))
		if size == 0 {
			break
		}
	}
	return s.zeros(padding(size), "the padding of "+name)
}

// take reads the next n bytes, which must be few.
func (s *stream) take(n int64, name string) ([]byte, error) {
	out := make([]byte, 0, n)
	if k := min(int64(len(s.ahead)), n); k > 0 {
		out = append(out, s.ahead[:k]...)
		s.ahead = s.ahead[k:]
		s.off += k
	}
	for int64(len(out)) < n {
		b, err := s.in.next(n - int64(len(out)))
		if err != nil {
			return nil, s.readFault(name, err)
		}
		out = append(out, b...)
		s.advance(len(b))
	}
	return out, nil
}

func (s *stream) zeros(n int, what string) error {
	start := s.off
	b, err := s.take(int64(n), what)
	if err != nil {
		return err
	}
	if i := bytes.IndexFunc(b, func(r rune) bool { return r != 0 }); i >= 0 {
		return s.fault(what, start+int64(i), errors.New("a byte that is not zero"))
	}
	return nil
}

func (s *stream) advance(n int) {
	s.off += int64(n)
	if s.progress != nil {
		s.progress(s.off, s.total)
	}
}

func (s *stream) fault(name string, at int64, err error) error {
	return refuse(fmt.Errorf("%s at offset %d: %w", name, at, err))
}

// readFault tells an end that came too early from a reader that failed.
func (s *stream) readFault(name string, err error) error {
	if errors.Is(err, io.EOF) {
		return s.fault(name, s.off, errors.New("the bundle is cut off here"))
	}
	return fmt.Errorf("%s at offset %d: %w", name, s.off, err)
}

func same(b []byte, want string) error {
	if !strings.HasPrefix(want, string(b)) {
		return errors.New("other bytes than expected")
	}
	return nil
}

// describe says what a tar header is about; it is for messages only.
func describe(h []byte) string {
	if len(h) < 262 || string(h[257:262]) != "ustar" {
		return "bytes that are no tar header\nhint: the file is damaged, or is no holdfast bundle"
	}
	name, _, _ := strings.Cut(string(h[:100]), "\x00")
	size, _, _ := strings.Cut(string(h[124:136]), "\x00")
	return fmt.Sprintf("%q, type %q, size (octal) %q", name, h[156:157], size)
}
