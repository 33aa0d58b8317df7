package slot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/airgap/store"
)

// EntryDir is where boot entries are on the EFI system partition. Renaming
// changes two places of a directory on FAT. While it holds no more than four
// names, temporary ones included, both lie in its first sector.
const EntryDir = "EFI/Linux"

// Tries is the number of boots that an entry gets to prove itself.
const Tries = 3

const maxKernelImage = 256 << 20

// Entry is a boot entry: a release's unified kernel image, by its file name.
type Entry struct {
	Release    int64
	Counted    bool // whether boots are counted
	Left, Done int  // tries, when Counted
}

var entryName = regexp.MustCompile(`^holdfast-([1-9][0-9]{0,17}|0)(\+(0|[1-9][0-9]{0,4})(-(0|[1-9][0-9]{0,4}))?)?\.efi$`)

// ParseEntry reads a file name, and reports whether it is that of an entry:
// holdfast-N.efi, holdfast-N+LEFT.efi or holdfast-N+LEFT-DONE.efi.
func ParseEntry(filename string) (Entry, bool) {
	m := entryName.FindStringSubmatch(filename)
	if m == nil {
		return Entry{}, false
	}
	e := Entry{Counted: m[2] != ""}
	e.Release, _ = strconv.ParseInt(m[1], 10, 64) // what matches is a number, or empty
	e.Left, _ = strconv.Atoi(m[3])
	e.Done, _ = strconv.Atoi(m[5])
	return e, true
}

// Name is the entry's file name.
func (e Entry) Name() string {
	switch {
	case !e.Counted:
		return fmt.Sprintf("holdfast-%d.efi", e.Release)
	case e.Done == 0:
		return fmt.Sprintf("holdfast-%d+%d.efi", e.Release, e.Left)
	}
	return fmt.Sprintf("holdfast-%d+%d-%d.efi", e.Release, e.Left, e.Done)
}

// TempName is the name under which WriteEntry writes a release's image.
func TempName(release int64) string { return fmt.Sprintf("holdfast-%d.new", release) }

// Entries lists the entries on the EFI system partition mounted at espDir, in
// the order of Order. Other files are left out.
func Entries(espDir string) ([]Entry, error) {
	files, err := os.ReadDir(filepath.Join(espDir, EntryDir))
	if err != nil {
		return nil, fmt.Errorf("cannot list boot entries: %w", err)
	}
	var out []Entry
	for _, f := range files {
		if e, ok := ParseEntry(f.Name()); ok && f.Type().IsRegular() {
			out = append(out, e)
		}
	}
	return Order(out), nil
}

// Order is the order in which systemd-boot takes entries: those without tries
// left last, then the highest release first.
func Order(entries []Entry) []Entry {
	return slices.SortedStableFunc(slices.Values(entries), func(a, b Entry) int {
		if c := cmp.Compare(spent(a), spent(b)); c != 0 {
			return c
		}
		return -compareVersions(a.Name(), b.Name())
	})
}

func spent(e Entry) int {
	if e.Counted && e.Left == 0 {
		return 1
	}
	return 0
}

// WriteEntry writes a release's image to the EFI system partition mounted at
// espDir under a name that nothing boots, and returns that name for Rename. The
// file was flushed, read back from the device, has the source's digest, and
// check, which is given its bytes, accepted it. On failure there is no file.
func WriteEntry(ctx context.Context, espDir string, release int64, uki Source, check func([]byte) error) (tmp string, err error) {
	tmp = TempName(release)
	name := filepath.Join(espDir, EntryDir, tmp)
	if err := writeEntry(ctx, name, uki, check); err != nil {
		// Should even this fail, the next boot removes the file.
		_ = os.Remove(name)
		return "", fmt.Errorf("cannot write boot entry %s: %w", tmp, errors.Join(err, syncDir(espDir)))
	}
	return tmp, nil
}

func writeEntry(ctx context.Context, name string, uki Source, check func([]byte) error) error {
	if uki.Raw.Size <= 0 || uki.Raw.Size > maxKernelImage {
		return fmt.Errorf("%d bytes, the limit is %d", uki.Raw.Size, maxKernelImage)
	}
	r, err := uki.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := copyExactly(ctx, f, r, uki.Raw.Size); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(filepath.Dir(filepath.Dir(name)))); err != nil {
		return err
	}
	b, err := readUncached(f, uki.Raw.Size)
	if err != nil {
		return err
	}
	if got := store.FromBytes(b); got != uki.Raw.Digest {
		return fmt.Errorf("read back, its digest is %s, want %s: %w", got, uki.Raw.Digest, store.ErrMismatch)
	}
	return check(b)
}

func copyExactly(ctx context.Context, w io.Writer, r io.Reader, size int64) error {
	for left := size; left > 0; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.CopyN(w, r, min(left, chunk))
		left -= n
		if err != nil {
			return fmt.Errorf("after %d of %d bytes: %w", size-left, size, err)
		}
	}
	if n, err := io.ReadFull(r, make([]byte, 1)); n != 0 {
		return fmt.Errorf("content has more than its %d bytes: %w", size, store.ErrMismatch)
	} else if err != io.EOF {
		return err
	}
	return nil
}

func readUncached(f *os.File, size int64) ([]byte, error) {
	r, err := uncached(f, 0, 0)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b := aligned(int(alignUp(size)))
	n, err := r.ReadAt(b, 0)
	if int64(n) != size || err != nil && err != io.EOF {
		return nil, fmt.Errorf("cannot read back: %d of %d bytes: %w", n, size, err)
	}
	return b[:n], nil
}

// Rename gives a file among the entries another name, and flushes. After a power
// cut the file may have both names, with the same clusters: see Normalize.
func Rename(espDir, from, to string) error {
	dir := filepath.Join(espDir, EntryDir)
	if _, err := os.Lstat(filepath.Join(dir, to)); err == nil && from != to {
		return fmt.Errorf("cannot rename boot entry %s: %s is there", from, to)
	}
	if err := os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)); err != nil {
		return fmt.Errorf("cannot rename boot entry: %w", err)
	}
	// Linux makes the new name for an empty file first, and says where its
	// clusters are when the file, not the directory, is flushed.
	if err := syncFile(filepath.Join(dir, to)); err != nil {
		return fmt.Errorf("cannot flush boot entry: %w", err)
	}
	return syncDir(espDir)
}

func syncFile(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Remove removes a file from among the entries, and flushes. It is no error if
// there is none.
func Remove(espDir, name string) error {
	if err := os.Remove(filepath.Join(espDir, EntryDir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot remove boot entry: %w", err)
	}
	return syncDir(espDir)
}

// syncDir flushes the directory of the entries, and the file system's tables,
// which fsync of a directory leaves out on FAT.
func syncDir(espDir string) error {
	d, err := os.Open(filepath.Join(espDir, EntryDir))
	if err != nil {
		return fmt.Errorf("cannot flush boot entries: %w", err)
	}
	defer d.Close()
	if err := errors.Join(d.Sync(), unix.Syncfs(int(d.Fd()))); err != nil {
		return fmt.Errorf("cannot flush boot entries: %w", err)
	}
	return nil
}
