package cli

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles"
	"holdfast.dev/holdfast/image"
	"holdfast.dev/holdfast/image/disk"
	"holdfast.dev/holdfast/image/flash"
	"holdfast.dev/holdfast/signing"
)

// Output is a file that a build made.
type Output struct {
	File string `json:"file"` // without its directory
	store.Content
}

// Result is what NAME-RELEASE.json says.
type Result struct {
	Name     string          `json:"name"`
	Release  int64           `json:"release"`
	Zone     string          `json:"zone"`
	Version  string          `json:"version"` // of holdfast
	Index    store.Content   `json:"index"`   // the release index, which the signature is over
	RootHash string          `json:"rootHash"`
	Outputs  []Output        `json:"outputs"`
	OS       image.OS        `json:"os"`
	Images   []bundles.Image `json:"images"`
	Blobs    []store.Content `json:"blobs"` // every blob of the release
}

// readResult reads NAME-RELEASE.json.
func readResult(name string) (Result, error) {
	var r Result
	b, err := os.ReadFile(name)
	if err != nil {
		return r, fmt.Errorf("cannot find the release: %w\nhint: run \"holdfast build\"", err)
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("cannot read %s: %w", name, err)
	}
	return r, nil
}

// outputs writes what the signed release gives: raw and qcow2 disk, bundle,
// and the list of them. Each appears whole or not at all.
func (b builder) outputs(ctx context.Context, o image.OS, boot bootParts, images []bundles.Image, rel bundles.Release, sigs []signing.Signature) error {
	dir := b.outDir()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("cannot write outputs: %w", err)
	}
	base := filepath.Join(dir, b.outName())
	key, err := store.Key("outputs", rel.Index, sigs, b.keys.enrolment, b.identity)
	if err != nil {
		return err
	}
	if r, ok := b.current(base, key); ok {
		return b.show(r, "nothing changed")
	}
	raw, pieces, bundle, err := b.writeBoth(ctx, base, o, boot, rel, sigs)
	if err != nil {
		return err
	}
	qcow, err := b.written("write qcow2", base+".qcow2", func(name string) error { return disk.WriteQcow2(name, base+".raw") }, hashSparse)
	if err != nil {
		return err
	}
	st := signing.Statement{
		Name: b.in.site.Name, Release: uint64(b.in.site.Release), Zone: b.in.site.Zone,
		File: raw.File, Digest: string(raw.Digest), Size: raw.Size, Index: string(rel.Index.Digest),
		Pieces: pieces,
	}
	statement, err := signing.SignStatement(st, b.keys.release)
	if err != nil {
		return err
	}
	if err := writeFile(base+".raw.sig", statement); err != nil {
		return err
	}
	entries, err := bundles.Layout(b.store, rel, sigs)
	if err != nil {
		return err
	}
	r := Result{
		Name: b.in.site.Name, Release: b.in.site.Release, Zone: b.in.site.Zone, Version: Version,
		Index: rel.Index, RootHash: o.RootHash, OS: o, Images: images, Outputs: []Output{raw, qcow, bundle},
	}
	for _, e := range entries {
		if e.Content.Size > 0 {
			r.Blobs = append(r.Blobs, e.Content)
		}
	}
	doc, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot write outputs: %w", err)
	}
	if err := writeFile(base+".json", append(doc, '\n')); err != nil {
		return err
	}
	if err := b.remember(base, key, r); err != nil {
		return err
	}
	return b.show(r, "built")
}

func (b builder) writeBoth(ctx context.Context, base string, o image.OS, boot bootParts, rel bundles.Release, sigs []signing.Signature) (raw Output, pieces signing.Pieces, bundle Output, err error) {
	bundle, err = b.written("pack bundle", base+".bundle", func(name string) error {
		f, err := os.Create(name)
		if err != nil {
			return err
		}
		w := bufio.NewWriterSize(f, 1<<20)
		report := b.progress("pack bundle")
		err = bundles.Pack(ctx, w, b.store, rel, sigs, func(done, total int64) { report(done, total, b.outName()) })
		return errors.Join(err, w.Flush(), f.Sync(), f.Close())
	}, hashSparse)
	if err != nil {
		return raw, pieces, bundle, err
	}
	seed, err := bundles.SeedTree(b.store, rel, sigs, b.lock.Epoch)
	if err != nil {
		return raw, pieces, bundle, err
	}
	raw, err = b.written("write disk", base+".raw", func(name string) error {
		return image.WriteDisk(name, b.store, image.Disk{
			OS: o, UKI: boot.uki, Loader: boot.loader, Guard: boot.guard, Enrolment: b.keys.enrolment, Seed: seed,
			Index: rel.Index.Digest, Release: b.in.site.Release, Epoch: b.lock.Epoch,
		})
	}, func(name string) (store.Content, error) {
		im, err := flash.ReadImage(ctx, name, true, nil)
		if err != nil {
			return store.Content{}, err
		}
		pieces = signing.Pieces{Size: flash.PieceSize, Digest: string(im.Pieces)}
		return store.Content{Digest: im.Whole, Size: im.Size}, nil
	})
	return raw, pieces, bundle, err
}

// written makes an output under a temporary name, takes its digest and moves it
// into place.
func (b builder) written(step, name string, write func(string) error, digest func(string) (store.Content, error)) (Output, error) {
	done := b.step(step)
	tmp := name + ".partial"
	defer os.Remove(tmp)
	if err := write(tmp); err != nil {
		return Output{}, fmt.Errorf("cannot write %s: %w", name, err)
	}
	c, err := digest(tmp)
	if err != nil {
		return Output{}, fmt.Errorf("cannot read back %s: %w", name, err)
	}
	if err := os.Chmod(tmp, 0o644); err != nil {
		return Output{}, fmt.Errorf("cannot write %s: %w", name, err)
	}
	if err := os.Rename(tmp, name); err != nil {
		return Output{}, fmt.Errorf("cannot write %s: %w", name, err)
	}
	done(fmt.Sprintf("%s %s", filepath.Base(name), size(c.Size)))
	return Output{filepath.Base(name), c}, nil
}

// hashSparse is the digest of a file.
func hashSparse(name string) (store.Content, error) {
	f, err := os.Open(name)
	if err != nil {
		return store.Content{}, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	return store.Content{Digest: store.SHA256(h.Sum(nil)), Size: n}, err
}

func writeFile(name string, data []byte) error {
	tmp := name + ".partial"
	if err := os.WriteFile(tmp, data, 0o644); err != nil {
		return fmt.Errorf("cannot write %s: %w", name, err)
	}
	if err := errors.Join(os.Chmod(tmp, 0o644), os.Rename(tmp, name)); err != nil {
		return fmt.Errorf("cannot write %s: %w", name, err)
	}
	return nil
}

// witness tells a file that was not touched since it was written.
type witness struct {
	Size, MTime, CTime int64
	Inode              uint64
}

func witnessOf(name string) (witness, error) {
	var st syscall.Stat_t
	if err := syscall.Stat(name, &st); err != nil {
		return witness{}, err
	}
	return witness{st.Size, st.Mtim.Nano(), st.Ctim.Nano(), st.Ino}, nil
}

type outputState struct {
	Key       store.Digest
	Witnesses map[string]witness
	Result    Result
}

func outputFiles(base string) []string {
	var files []string
	for _, ext := range []string{".raw", ".raw.sig", ".qcow2", ".bundle", ".json"} {
		files = append(files, base+ext)
	}
	return files
}

func statePath(base string) string {
	return filepath.Join(filepath.Dir(base), "."+filepath.Base(base)+".state")
}

func (b builder) remember(base string, key store.Digest, r Result) error {
	s := outputState{Key: key, Witnesses: map[string]witness{}, Result: r}
	for _, f := range outputFiles(base) {
		w, err := witnessOf(f)
		if err != nil {
			return fmt.Errorf("cannot read back %s: %w", f, err)
		}
		s.Witnesses[filepath.Base(f)] = w
	}
	doc, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("cannot remember outputs: %w", err)
	}
	return writeFile(statePath(base), doc)
}

// current returns the last result if its files are as they were written.
func (b builder) current(base string, key store.Digest) (Result, bool) {
	var s outputState
	doc, err := os.ReadFile(statePath(base))
	if err != nil || json.Unmarshal(doc, &s) != nil || s.Key != key || b.rehash {
		return Result{}, false
	}
	for _, f := range outputFiles(base) {
		if w, err := witnessOf(f); err != nil || w != s.Witnesses[filepath.Base(f)] {
			return Result{}, false
		}
	}
	return s.Result, true
}

func (b builder) show(r Result, note string) error {
	if b.json {
		b.event(map[string]any{"event": "built", "note": note, "result": r})
		return nil
	}
	b.printf("\n%s: release %d of %s, %s\n", note, r.Release, r.Name, r.Index.Digest)
	for _, o := range r.Outputs {
		b.printf("  %-40s %10s  %s\n", filepath.Join(cmp.Or(b.out, "out"), o.File), size(o.Size), o.Digest)
	}
	return nil
}
