package bundles

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"holdfast.dev/holdfast/airgap/store"
)

var blobForm = regexp.MustCompile(`^[0-9a-f]{64}$`)

// Sweep removes from the OCI layout in dir what no release of keep needs, and
// says how many bytes that freed. keep must have the running release and the
// one to go back to, and one whose import is to go on.
//
// index.json first stops naming the other releases, and is on the disk before
// any blob goes; so a cut at any place leaves every kept release whole, and a
// repetition does the rest. Files that are no blobs, such as those of a broken
// write, go if they were last written before stale; folders never. If the
// blobs of a kept release cannot be told, nothing is removed.
func Sweep(dir string, keep []*Verified, stale time.Time) (freed int64, err error) {
	s := sweeper{dir: dir, stale: stale, do: func(_ string, f func() error) error { return f() }}
	if err := s.sweep(keep); err != nil {
		return s.freed, fmt.Errorf("cannot sweep %s: %w", dir, err)
	}
	return s.freed, nil
}

type sweeper struct {
	dir   string
	stale time.Time
	do    func(what string, f func() error) error // each change; tests cut here
	freed int64
}

func (s *sweeper) sweep(keep []*Verified) error {
	if len(keep) == 0 {
		return errors.New("internal error: no release is to be kept")
	}
	needed := map[string]bool{}
	var errs []error
	for _, v := range keep {
		blobs, err := v.Blobs()
		errs = append(errs, err)
		for _, b := range blobs {
			needed[b.Digest.Hex()] = true
		}
	}
	index, sigs, err := s.keptIndex(keep)
	if err := errors.Join(append(errs, err)...); err != nil {
		return err
	}
	for _, c := range sigs {
		needed[c.Digest.Hex()] = true
	}
	if index != nil {
		if err := s.do(indexName, func() error { return replaceFile(s.dir, indexName, index) }); err != nil {
			return err
		}
	}
	if err := s.leftovers(s.dir, nil); err != nil {
		return err
	}
	blobs := filepath.Join(s.dir, "blobs", "sha256")
	if err := s.leftovers(blobs, needed); err != nil {
		return err
	}
	return s.do("sync", func() error { return syncDir(blobs) })
}

// keptIndex is what index.json is to be: the entries of kept releases, each
// with every signature manifest over it; nil if it is that already. It also
// returns the blobs of those manifests.
func (s *sweeper) keptIndex(keep []*Verified) (index []byte, needed []store.Content, err error) {
	rels, manifests, err := readIndexJSON(s.dir)
	if err != nil {
		return nil, nil, err
	}
	var from joined
	for _, v := range keep {
		if v.source != nil {
			from = append(from, v.source)
		}
	}
	all := &Verified{source: append(from, dirSource{s.dir})}
	over := map[string][]store.Content{}
	for _, m := range distinct(manifests) {
		read := []store.Content{}
		release, _, err := readSignatures(m, func(c store.Content) ([]byte, error) {
			read = append(read, c)
			return all.small(c)
		})
		switch {
		case errors.Is(err, store.ErrMissing), errors.Is(err, store.ErrMismatch), errors.Is(err, ErrRefused):
			continue // it made nobody trust anything
		case err != nil:
			return nil, nil, err
		}
		if slices.ContainsFunc(keep, func(v *Verified) bool { return string(v.Index().Digest) == release }) {
			over[release] = append(over[release], m)
			needed = append(needed, read...)
		}
	}
	var kept []signed
	for _, r := range distinct(rels) {
		for _, v := range keep {
			if v.Index() != r {
				continue
			}
			ms := over[string(r.Digest)]
			if len(ms) == 0 {
				ms = []store.Content{v.signed.sigs}
			}
			for _, m := range ms {
				kept = append(kept, signed{r, m})
			}
			break
		}
	}
	want, err := indexJSON(kept...)
	if err != nil {
		return nil, nil, err
	}
	have, err := os.ReadFile(filepath.Join(s.dir, indexName))
	if errors.Is(err, fs.ErrNotExist) || err == nil && string(have) == string(want) {
		return nil, needed, nil
	}
	return want, needed, err
}

// leftovers removes from a folder the blobs that are not needed, if it holds
// blobs, and the temporary files that are stale.
func (s *sweeper) leftovers(dir string, needed map[string]bool) error {
	es, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range es {
		fi, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		blob := needed != nil && blobForm.MatchString(e.Name())
		// Of the layout's own folder only what replaceFile leaves behind.
		temporary := needed != nil || strings.HasPrefix(e.Name(), "."+indexName+"-") || strings.HasPrefix(e.Name(), "."+layoutName+"-")
		switch {
		case !fi.Mode().IsRegular(), blob && needed[e.Name()], !blob && (!temporary || !fi.ModTime().Before(s.stale)):
			continue
		}
		if err := s.do(e.Name(), func() error { return os.Remove(filepath.Join(dir, e.Name())) }); err != nil {
			return err
		}
		s.freed += fi.Size()
	}
	return nil
}
