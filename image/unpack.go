package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"holdfast.dev/holdfast/airgap"
	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/image/deb"
	"holdfast.dev/holdfast/image/rootfs"
)

// workers unpack packages at a time; decompressing xz is the cost.
const workers = 4

// tars returns the plain data archive of each package, from the store, where
// they are put the first time.
func tars(ctx context.Context, s *store.Store, ps []airgap.Package, progress func(done, total int)) ([]store.Content, error) {
	out := make([]store.Content, len(ps))
	keys := make([]store.Digest, len(ps))
	var jobs []deb.Job
	var index []int
	var errs []error
	dir, err := os.MkdirTemp(filepath.Join(s.Dir(), "tmp"), "unpack-")
	if err != nil {
		return nil, fmt.Errorf("cannot unpack packages: %w", err)
	}
	defer os.RemoveAll(dir)
	for i, p := range ps {
		if keys[i], err = store.Key("data.tar", p.Digest); err != nil {
			return nil, err
		}
		var c store.Content
		if s.Recall(keys[i], &c) && s.Check(c) == nil {
			out[i] = c
			continue
		}
		if err := s.Check(p.Content); err != nil {
			errs = append(errs, fmt.Errorf("cannot unpack package %s: %w\nhint: run \"holdfast collect\"", p.ID(), err))
			continue
		}
		jobs = append(jobs, deb.Job{Deb: s.Path(p.Digest), Tar: filepath.Join(dir, p.Digest.Hex())})
		index = append(index, i)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	contents, err := deb.DecompressAll(ctx, jobs, workers, progress)
	if err != nil {
		return nil, err
	}
	for j, c := range contents {
		if err := s.Adopt(jobs[j].Tar, c); err != nil {
			return nil, err
		}
		if err := s.Remember(keys[index[j]], c); err != nil {
			return nil, err
		}
		out[index[j]] = c
	}
	return out, nil
}

// Prepare decompresses packages into the store, as Unpack would: xz is most of
// what a first root costs, and once is enough.
func Prepare(ctx context.Context, s *store.Store, ps []airgap.Package, progress func(done, total int)) error {
	_, err := tars(ctx, s, ps, progress)
	return err
}

// Unpack puts the packages into one tree, in their order. No maintainer script
// runs.
func Unpack(ctx context.Context, s *store.Store, ps []airgap.Package, epoch int64, drop func(string) bool, progress func(done, total int)) (*rootfs.Tree, error) {
	cs, err := tars(ctx, s, ps, progress)
	if err != nil {
		return nil, err
	}
	t := rootfs.New(epoch)
	var errs []error
	for i, p := range ps {
		errs = append(errs, deb.AddTar(t, s.Path(cs[i].Digest), deb.AddOptions{Package: p.ID(), Drop: drop}))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return t, nil
}
