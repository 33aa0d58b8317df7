package bundles

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/signing"
)

// maxReleases is how many releases a layout on disk may name.
const maxReleases = 64

// OpenLayout finds the releases that the OCI layouts in dirs name in their
// index.json, and returns those that trust accepts, the lowest number first.
// A dir without an index.json holds none. A blob may lie in any of the dirs;
// each is checked when it is read.
//
// Both results can be there: err tells why other releases were not accepted
// and which dirs could not be read. With no release at all it is never nil.
func OpenLayout(dirs []string, trust Trust) ([]*Verified, error) {
	v := &Verified{source: dirSource(slices.Clone(dirs))}
	var rels, sigManifests []store.Content
	var errs []error
	for _, dir := range dirs {
		r, s, err := readIndexJSON(dir)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		rels, sigManifests = append(rels, r...), append(sigManifests, s...)
	}
	// Which signatures are whose, their payloads say.
	sigs := map[string][]signing.Signature{}
	manifests := map[string][]store.Content{}
	for _, m := range distinct(sigManifests) {
		over, got, err := readSignatures(m, v.small)
		if err != nil {
			errs = append(errs, fmt.Errorf("cannot read signatures %s: %w", m.Digest, err))
			continue
		}
		sigs[over] = append(sigs[over], got...)
		manifests[over] = append(manifests[over], m)
	}
	var out []*Verified
	for _, r := range distinct(rels) {
		d := string(r.Digest)
		one, err := v.release(r, manifests[d], sigs[d], trust)
		if err != nil {
			errs = append(errs, fmt.Errorf("cannot accept release %s: %w", r.Digest, err))
			continue
		}
		out = append(out, one)
	}
	slices.SortStableFunc(out, func(a, b *Verified) int {
		return cmp.Or(cmp.Compare(a.Facts().Release, b.Facts().Release), cmp.Compare(a.Index().Digest, b.Index().Digest))
	})
	if len(out) == 0 && len(errs) == 0 {
		errs = append(errs, fmt.Errorf("cannot find a release in %q: %w", dirs, os.ErrNotExist))
	}
	return out, errors.Join(errs...)
}

func (v *Verified) release(index store.Content, manifests []store.Content, sigs []signing.Signature, trust Trust) (*Verified, error) {
	b, err := v.small(index)
	if err != nil {
		return nil, err
	}
	acc, err := trust.admit(b, index.Digest, sigs)
	if err != nil {
		return nil, err
	}
	// The manifests of images are left for later: one that rotted must not
	// keep the node from starting.
	c, _, err := readParts(b, v.small, false)
	if err != nil {
		return nil, err
	}
	c.sigs = sigs
	// A release that was signed again has more than one signature manifest;
	// an index.json names one of them: the whole one, if there is such.
	art, err := signing.NewArtifact(sigs)
	if err != nil {
		return nil, err
	}
	sg := signed{index, store.Content{Digest: store.FromBytes(art.Manifest), Size: int64(len(art.Manifest))}}
	if !slices.Contains(manifests, sg.sigs) {
		sg.sigs = manifests[0]
	}
	return &Verified{contents: c, signed: sg, accepted: acc, source: v.source}, nil
}

func (v *Verified) small(c store.Content) ([]byte, error) {
	if c.Size > MaxManifest {
		return nil, refuse(fmt.Errorf("%s: a manifest of %d bytes, more than the %d allowed", c.Digest, c.Size, MaxManifest))
	}
	return v.ReadBlob(c)
}

// Blobs returns all blobs of the release in the order of the layout, those of
// its signatures too. Of a release on disk it reads the images' manifests;
// whether the other blobs are there it does not say.
func (v *Verified) Blobs() ([]Blob, error) {
	if v.blobs != nil {
		return slices.Clone(v.blobs), nil
	}
	var out []Blob
	trusted := func([]byte, []signing.Signature) error { return nil } // v is verified already
	_, err := walk(v.signed, trusted, func(c store.Content, small bool) ([]byte, error) {
		out = append(out, Blob{c, -1})
		if !small {
			return nil, nil
		}
		return v.small(c)
	})
	if err != nil {
		return nil, fmt.Errorf("cannot list the blobs of release %s: %w", v.signed.index.Digest, err)
	}
	return out, nil
}

// WriteIndex makes the OCI layout in dir name these releases, and no others:
// the last step of an import, and the first of a removal. The blobs are the
// caller's. The file is replaced whole or not at all.
func WriteIndex(dir string, rels ...*Verified) error {
	var sgs []signed
	for _, v := range rels {
		sgs = append(sgs, v.signed)
	}
	b, err := indexJSON(sgs...)
	if err != nil {
		return err
	}
	if err := replaceFile(dir, layoutName, []byte(layoutJSON)); err != nil {
		return fmt.Errorf("cannot write %s: %w", filepath.Join(dir, layoutName), err)
	}
	if err := replaceFile(dir, indexName, b); err != nil {
		return fmt.Errorf("cannot write %s: %w", filepath.Join(dir, indexName), err)
	}
	return nil
}

func replaceFile(dir, name string, b []byte) error {
	f, err := os.CreateTemp(dir, "."+name+"-*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, name))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func readIndexJSON(dir string) (rels, sigs []store.Content, err error) {
	f, err := os.Open(filepath.Join(dir, indexName))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read layout: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxIndex+1))
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read layout: %w", err)
	}
	if len(b) > maxIndex {
		return nil, nil, refuse(fmt.Errorf("cannot read layout: %s is more than %d bytes", f.Name(), maxIndex))
	}
	rels, sigs, since, err := parseIndexJSON(b)
	if err == nil && since != nil {
		err = errors.New("it is an unpacked difference\nhint: open the difference's file together with its base")
	}
	if err == nil && len(rels)+len(sigs) > 2*maxReleases {
		err = fmt.Errorf("more than %d releases", maxReleases)
	}
	if err != nil {
		return nil, nil, refuse(fmt.Errorf("cannot read layout %s: %w", dir, err))
	}
	return rels, sigs, nil
}

func distinct(cs []store.Content) []store.Content {
	var out []store.Content
	for _, c := range cs {
		if !slices.Contains(out, c) {
			out = append(out, c)
		}
	}
	return out
}
