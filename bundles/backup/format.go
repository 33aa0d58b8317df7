// Package backup is the file in which a site's state is carried away: a tar of
// the files that a node keeps beyond its release, compressed with zstd and
// encrypted with age (age-encryption.org/v1) to the site's recovery keys. The
// first entry of the tar is backup.json, the Header; what follows it lies below
// files/, by its path on the node. docs/recovery.md has the whole.
package backup

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"
)

const (
	// Suffix ends the name of a backup.
	Suffix = ".holdfast-backup"

	apiVersion = "holdfast/v1alpha1"
	kind       = "Backup"
	headerName = "backup.json"
	filesDir   = "files/"
	maxHeader  = 64 << 10
	maxWindow  = 8 << 20 // of zstd
	maxPath    = 4096
)

// Header says what is backed up.
type Header struct {
	APIVersion    string    `json:"apiVersion"`
	Kind          string    `json:"kind"`
	Site          string    `json:"site"`
	Zone          string    `json:"zone"`
	Release       uint64    `json:"release"`
	Index         string    `json:"index"` // digest of that release
	Engine        string    `json:"engine"`
	EngineVersion string    `json:"engineVersion"`
	Node          string    `json:"node"`
	Address       string    `json:"address"` // of the node, without prefix length
	Time          time.Time `json:"time"`    // of the moment that it shows
	Files         int64     `json:"files"`   // entries after this one
	Bytes         int64     `json:"bytes"`   // of regular files
}

var word = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:+-]{0,252}$`)

// check makes sure that what is shown and compared is what it says it is.
func (h Header) check() error {
	var errs []error
	if h.APIVersion != apiVersion || h.Kind != kind {
		errs = append(errs, fmt.Errorf("it is %q of %q, want %s of %s", h.Kind, h.APIVersion, kind, apiVersion))
	}
	for _, f := range []struct{ name, value string }{
		{"site", h.Site}, {"zone", h.Zone}, {"index", h.Index}, {"engine", h.Engine}, {"node", h.Node}, {"address", h.Address},
	} {
		if !word.MatchString(f.value) {
			errs = append(errs, fmt.Errorf("%s is %q", f.name, f.value))
		}
	}
	if h.EngineVersion != "" && !word.MatchString(h.EngineVersion) {
		errs = append(errs, fmt.Errorf("engineVersion is %q", h.EngineVersion))
	}
	if h.Release == 0 || h.Files < 0 || h.Bytes < 0 {
		errs = append(errs, fmt.Errorf("release %d, %d files, %d bytes", h.Release, h.Files, h.Bytes))
	}
	return errors.Join(errs...)
}

// Name is the name of the backup's file.
func (h Header) Name() string {
	return fmt.Sprintf("%s-%d-%s%s", h.Site, h.Release, h.Time.UTC().Format("20060102T150405Z"), Suffix)
}

// Writer writes a backup.
type Writer struct {
	sealed io.WriteCloser
	packed *zstd.Encoder
	tar    *tar.Writer
	files  int64
	bytes  int64
	head   Header
}

// NewWriter begins a backup that each of the recipients alone can open. Files
// and Bytes of h must be what will be added; APIVersion and Kind are set here.
func NewWriter(w io.Writer, to []age.Recipient, h Header) (*Writer, error) {
	h.APIVersion, h.Kind, h.Time = apiVersion, kind, h.Time.UTC().Truncate(time.Second)
	if err := h.check(); err != nil {
		return nil, fmt.Errorf("cannot write a backup: %w", err)
	}
	sealed, err := age.Encrypt(w, to...)
	if err != nil {
		return nil, fmt.Errorf("cannot encrypt: %w", err)
	}
	packed, err := zstd.NewWriter(sealed, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(maxWindow))
	if err != nil {
		return nil, fmt.Errorf("cannot compress: %w", err)
	}
	b, err := json.MarshalIndent(h, "", "  ")
	if err != nil {
		return nil, err
	}
	out := &Writer{sealed: sealed, packed: packed, tar: tar.NewWriter(packed), head: h}
	if err := out.add(&tar.Header{Typeflag: tar.TypeReg, Name: headerName, Mode: 0o600, Size: int64(len(b)), ModTime: h.Time}, strings.NewReader(string(b))); err != nil {
		return nil, err
	}
	return out, nil
}

// Add appends a file. t.Name, and t.Linkname of a hard link, are its path on the
// node without a slash before it; r gives t.Size bytes.
func (w *Writer) Add(t *tar.Header, r io.Reader) error {
	if err := checkEntry(t); err != nil {
		return err
	}
	w.files++
	w.bytes += t.Size
	out := *t
	out.Name, out.Format = filesDir+t.Name, tar.FormatPAX
	if t.Typeflag == tar.TypeLink {
		out.Linkname = filesDir + t.Linkname
	}
	return w.add(&out, r)
}

func (w *Writer) add(t *tar.Header, r io.Reader) error {
	if err := w.tar.WriteHeader(t); err != nil {
		return fmt.Errorf("cannot write /%s: %w", t.Name, err)
	}
	if t.Typeflag != tar.TypeReg {
		return nil
	}
	if n, err := io.CopyN(w.tar, r, t.Size); err != nil {
		return fmt.Errorf("cannot write /%s: %d of %d bytes: %w", t.Name, n, t.Size, noEOF(err))
	}
	return nil
}

// Close ends the backup; without it nobody takes the file for whole.
func (w *Writer) Close() error {
	if w.files != w.head.Files || w.bytes != w.head.Bytes {
		return fmt.Errorf("cannot end the backup: %d files of %d bytes, announced were %d of %d", w.files, w.bytes, w.head.Files, w.head.Bytes)
	}
	// In this order, and only if all went well.
	for _, f := range []func() error{w.tar.Close, w.packed.Close, w.sealed.Close} {
		if err := f(); err != nil {
			return fmt.Errorf("cannot end the backup: %w", err)
		}
	}
	return nil
}

// Reader reads a backup. Whoever knows the recipients can make one that opens:
// what it says is hostile until somebody has compared its Code.
type Reader struct {
	Header Header
	packed *zstd.Decoder
	tar    *tar.Reader
	files  int64
	bytes  int64
}

// NewReader opens a backup with one of the identities.
func NewReader(r io.Reader, with []age.Identity) (*Reader, error) {
	opened, err := age.Decrypt(r, with...)
	if _, ok := errors.AsType[*age.NoIdentityMatchError](err); ok {
		return nil, fmt.Errorf("%w: it is not encrypted to this recovery key", ErrRefused)
	}
	if err != nil {
		return nil, refuse(err)
	}
	packed, err := zstd.NewReader(opened, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, fmt.Errorf("cannot open the backup: %w", err)
	}
	out := &Reader{packed: packed, tar: tar.NewReader(packed)}
	if err := out.readHeader(); err != nil {
		packed.Close()
		return nil, refuse(err)
	}
	return out, nil
}

// ErrRefused is wrapped by errors about what is no backup, or not whole.
var ErrRefused = errors.New("the backup is refused")

func refuse(err error) error {
	return fmt.Errorf("%w: %w\nhint: use another copy of it", ErrRefused, err)
}

func (r *Reader) readHeader() error {
	t, err := r.tar.Next()
	if err != nil {
		return fmt.Errorf("its first entry: %w", noEOF(err))
	}
	if t.Name != headerName || t.Typeflag != tar.TypeReg || t.Size > maxHeader {
		return fmt.Errorf("its first entry is %q with %d bytes, want %s", t.Name, t.Size, headerName)
	}
	b, err := io.ReadAll(r.tar)
	if err == nil {
		err = json.Unmarshal(b, &r.Header)
	}
	if err == nil {
		err = r.Header.check()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", headerName, err)
	}
	return nil
}

// Next is the next file, with its path on the node, or io.EOF after all that
// Header announces; by then every byte of the backup was read and checked.
func (r *Reader) Next() (*tar.Header, error) {
	t, err := r.tar.Next()
	if err == io.EOF {
		return nil, r.end()
	}
	if err != nil {
		return nil, refuse(fmt.Errorf("after %d files: %w", r.files, err))
	}
	name, ok := strings.CutPrefix(t.Name, filesDir)
	if !ok {
		return nil, refuse(fmt.Errorf("%q lies outside of %s", t.Name, filesDir))
	}
	t.Name = strings.TrimSuffix(name, "/")
	if t.Typeflag == tar.TypeLink {
		t.Linkname = strings.TrimPrefix(t.Linkname, filesDir)
	}
	if err := checkEntry(t); err != nil {
		return nil, refuse(err)
	}
	r.files++
	r.bytes += t.Size
	if r.files > r.Header.Files || r.bytes > r.Header.Bytes {
		return nil, refuse(fmt.Errorf("more than the %d files of %d bytes that it announces", r.Header.Files, r.Header.Bytes))
	}
	return t, nil
}

func (r *Reader) end() error {
	// What follows tar's end is read too: age tells only at its own end that
	// nothing was cut off.
	n, err := io.Copy(io.Discard, io.LimitReader(r.packed, 1<<20))
	switch {
	case err != nil:
		return refuse(fmt.Errorf("its end: %w", noEOF(err)))
	case n == 1<<20:
		return refuse(errors.New("something follows its end"))
	case r.files != r.Header.Files || r.bytes != r.Header.Bytes:
		return refuse(fmt.Errorf("%d files of %d bytes, announced were %d of %d", r.files, r.bytes, r.Header.Files, r.Header.Bytes))
	}
	return io.EOF
}

// Read reads the file that Next returned.
func (r *Reader) Read(p []byte) (int, error) { return r.tar.Read(p) }

// Close gives the reader's memory back.
func (r *Reader) Close() { r.packed.Close() }

// checkEntry refuses what no node's state consists of.
func checkEntry(t *tar.Header) error {
	ok := fs.ValidPath(t.Name) && t.Name != "." && len(t.Name) <= maxPath
	switch t.Typeflag {
	case tar.TypeReg, tar.TypeDir, tar.TypeFifo:
	case tar.TypeSymlink:
		ok = ok && t.Linkname != "" && len(t.Linkname) <= maxPath
	case tar.TypeLink:
		ok = ok && fs.ValidPath(t.Linkname)
	default:
		return fmt.Errorf("cannot have %q in a backup: a file of type %q", t.Name, string(t.Typeflag))
	}
	if !ok || t.Size < 0 || t.Typeflag != tar.TypeReg && t.Size != 0 {
		return fmt.Errorf("cannot have %q (to %q, %d bytes) in a backup", t.Name, t.Linkname, t.Size)
	}
	return nil
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Check reads a backup from its beginning to its end.
func Check(r io.Reader, with []age.Identity) (Header, string, error) {
	sum := NewCode()
	in := io.TeeReader(r, sum)
	b, err := NewReader(in, with)
	if err != nil {
		return Header{}, "", err
	}
	defer b.Close()
	for {
		_, err := b.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return Header{}, "", err
		}
	}
	_, err = io.Copy(io.Discard, in)
	return b.Header, Code(sum), err
}
