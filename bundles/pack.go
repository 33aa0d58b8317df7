package bundles

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/image/rootfs"
	"holdfast.dev/holdfast/signing"
)

// Progress is told how many bytes are done; total is 0 while it is not known.
type Progress func(done, total int64)

// Entry is a file of the layout: Data, or where that is nil the blob Content.
type Entry struct {
	Path    string
	Content store.Content
	Data    []byte
}

// Layout lists the files of a signed release's OCI layout in their order. It
// reads the manifests and makes sure that the store has every blob; it does
// not ask whether the signatures are trusted, only that they are over rel.
func Layout(s *store.Store, rel Release, sigs []signing.Signature) ([]Entry, error) {
	entries, _, err := layout(s, rel, sigs)
	if err != nil {
		return nil, fmt.Errorf("cannot lay out release: %w", err)
	}
	return entries, nil
}

func layout(s *store.Store, rel Release, sigs []signing.Signature) ([]Entry, contents, error) {
	art, err := signing.NewArtifact(sigs)
	if err != nil {
		return nil, contents{}, err
	}
	made := map[store.Digest][]byte{}
	for _, b := range append([][]byte{art.Manifest, art.Config}, art.Payloads...) {
		made[store.FromBytes(b)] = b
	}
	sg := signed{rel.Index, store.Content{Digest: store.FromBytes(art.Manifest), Size: int64(len(art.Manifest))}}
	index, err := indexJSON(sg)
	if err != nil {
		return nil, contents{}, err
	}
	entries := []Entry{{Path: layoutName, Data: []byte(layoutJSON)}, {Path: indexName, Data: index}}
	unchecked := func([]byte, []signing.Signature) error { return nil }
	var missing []error
	c, err := walk(sg, unchecked, func(c store.Content, small bool) ([]byte, error) {
		if b, ok := made[c.Digest]; ok {
			entries = append(entries, Entry{blobName(c.Digest), c, b})
			return b, nil
		}
		entries = append(entries, Entry{blobName(c.Digest), c, nil})
		if small {
			return s.ReadFile(c, MaxManifest)
		}
		missing = append(missing, s.Check(c))
		return nil, nil
	})
	if err := errors.Join(append(missing, err)...); err != nil {
		return nil, contents{}, err
	}
	return entries, c, nil
}

// Pack writes a bundle: the layout as a tar file in canonical form. The same
// release and signatures give the same bytes. What w has on an error is not a
// bundle; the caller throws it away.
func Pack(ctx context.Context, w io.Writer, s *store.Store, rel Release, sigs []signing.Signature, progress Progress) error {
	if err := pack(ctx, w, s, rel, sigs, progress); err != nil {
		return fmt.Errorf("cannot pack release: %w", err)
	}
	return nil
}

func pack(ctx context.Context, w io.Writer, s *store.Store, rel Release, sigs []signing.Signature, progress Progress) error {
	entries, err := Layout(s, rel, sigs)
	if err != nil {
		return err
	}
	total := int64(2 * block)
	for i, e := range entries {
		if e.Data != nil {
			entries[i].Content.Size = int64(len(e.Data))
		}
		h, err := tarHeader(e.Path, entries[i].Content.Size)
		if err != nil {
			return err
		}
		total += int64(len(h)) + entries[i].Content.Size + int64(padding(entries[i].Content.Size))
	}
	out := &counter{ctx: ctx, w: w, total: total, progress: progress}
	for _, e := range entries {
		h, err := tarHeader(e.Path, e.Content.Size)
		if err != nil {
			return err
		}
		if _, err := out.Write(h); err != nil {
			return err
		}
		if err := copyEntry(out, s, e); err != nil {
			return fmt.Errorf("%s: %w", e.Path, err)
		}
		if _, err := out.Write(make([]byte, padding(e.Content.Size))); err != nil {
			return err
		}
	}
	_, err = out.Write(make([]byte, 2*block))
	return err
}

func copyEntry(w io.Writer, s *store.Store, e Entry) error {
	if e.Data != nil {
		_, err := w.Write(e.Data)
		return err
	}
	f, err := s.Open(e.Content)
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := io.CopyBuffer(w, io.LimitReader(f, e.Content.Size), make([]byte, 1<<20))
	if err == nil && n != e.Content.Size {
		err = fmt.Errorf("%w: it became shorter", store.ErrMismatch)
	}
	return err
}

type counter struct {
	ctx         context.Context // of one call of Pack
	w           io.Writer
	done, total int64
	progress    Progress
}

func (c *counter) Write(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.w.Write(b)
	c.done += int64(n)
	if c.progress != nil {
		c.progress(c.done, c.total)
	}
	return n, err
}

// SeedTree is the layout as a file tree for the seed store of a disk. It
// leaves out root.erofs and root.verity, which have partitions of their own.
// All times in it are epoch.
func SeedTree(s *store.Store, rel Release, sigs []signing.Signature, epoch int64) (*rootfs.Tree, error) {
	entries, c, err := layout(s, rel, sigs)
	if err != nil {
		return nil, fmt.Errorf("cannot make seed store: %w", err)
	}
	out := map[store.Digest]bool{}
	for _, p := range c.parts {
		for _, f := range c.files[p.manifest.Digest] {
			if p.kind == PartOS && (f.Title == RootErofs || f.Title == RootVerity) {
				out[f.Content.Digest] = true
			}
		}
	}
	t := rootfs.New(epoch)
	for _, e := range entries {
		if e.Data == nil && out[e.Content.Digest] {
			continue
		}
		f := rootfs.File{Path: e.Path, Mode: rootfs.TypeRegular | 0o644, MTime: epoch, Data: rootfs.Bytes(bytes.Clone(e.Data))}
		if e.Data == nil {
			f.Data = rootfs.Section{Name: s.Path(e.Content.Digest), Length: e.Content.Size}
		}
		if err := t.Add(f); err != nil {
			return nil, fmt.Errorf("cannot make seed store: %w", err)
		}
	}
	return t, nil
}
