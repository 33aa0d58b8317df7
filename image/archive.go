package image

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/image/deb"
	"holdfast.dev/holdfast/image/rootfs"
)

// maxArchive bounds what an archive unpacks to, in bytes.
const maxArchive = 4 << 30

// tree unpacks the archive. All that is in it becomes root's, with the time
// ContainerTime; nothing of it can be written by others.
func (a Archive) tree(s *store.Store) (*rootfs.Tree, error) {
	plain, err := a.gunzip(s)
	if err != nil {
		return nil, fmt.Errorf("cannot unpack %s: %w", a.Name, err)
	}
	all := rootfs.New(ContainerTime)
	if err := deb.AddTar(all, s.Path(plain.Digest), deb.AddOptions{Package: a.Name}); err != nil {
		return nil, err
	}
	t := rootfs.New(ContainerTime)
	used := map[string]bool{}
	for _, f := range all.Files() {
		_, below, ok := strings.Cut(f.Path, "/")
		if !ok && !f.IsDir() {
			return nil, fmt.Errorf("cannot unpack %s: %s is not in one directory at its top", a.Name, f.Path)
		}
		if !ok {
			continue
		}
		if d := a.drops(below); d != "" {
			used[d] = true
			continue
		}
		f.Path, f.UID, f.GID, f.MTime = path.Join(a.Path, below), 0, 0, ContainerTime
		f.Mode &^= 0o022
		if err := t.Put(f); err != nil {
			return nil, fmt.Errorf("cannot unpack %s: %w", a.Name, err)
		}
	}
	for _, d := range a.Drop {
		if !used[d] {
			return nil, fmt.Errorf("cannot leave %s out of %s: it is not there", d, a.Name)
		}
	}
	return t, nil
}

// drops names the entry of a.Drop that name is, or is below.
func (a Archive) drops(name string) string {
	i := slices.IndexFunc(a.Drop, func(d string) bool { return name == d || strings.HasPrefix(name, d+"/") })
	if i < 0 {
		return ""
	}
	return a.Drop[i]
}

// gunzip gives the archive as a plain tar in the store, where it is put once.
func (a Archive) gunzip(s *store.Store) (store.Content, error) {
	key, err := store.Key("gunzip", a.Digest)
	if err != nil {
		return store.Content{}, err
	}
	var c store.Content
	if s.Recall(key, &c) && s.Check(c) == nil {
		return c, nil
	}
	f, err := s.Open(a.Content)
	if errors.Is(err, store.ErrMissing) {
		err = fmt.Errorf("%w\nhint: run \"holdfast collect\"", err)
	}
	if err != nil {
		return store.Content{}, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return store.Content{}, err
	}
	c, err = s.Write(io.LimitReader(z, maxArchive+1))
	if err != nil {
		return store.Content{}, err
	}
	if c.Size > maxArchive {
		return store.Content{}, fmt.Errorf("it unpacks to more than %d bytes", int64(maxArchive))
	}
	return c, s.Remember(key, c)
}
