package bundles

import (
	"errors"
	"os"
	"path/filepath"
	"time"
)

// SweepCut is Sweep with before called ahead of each change; its error is a cut.
func SweepCut(dir string, keep []*Verified, stale time.Time, before func(what string) error) error {
	s := sweeper{dir: dir, stale: stale, do: func(what string, f func() error) error {
		if err := before(what); err != nil {
			return err
		}
		return f()
	}}
	return s.sweep(keep)
}

// AddToIndex adds a release and its signatures to what index.json names.
func AddToIndex(dir string, v *Verified) error {
	rels, sigs, err := readIndexJSON(dir)
	if err != nil {
		return err
	}
	var all []signed
	for i := range rels {
		all = append(all, signed{rels[i], sigs[i]})
	}
	b, err := indexJSON(append(all, v.signed)...)
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(filepath.Join(dir, indexName), b, 0o644))
}
