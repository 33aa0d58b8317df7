package debian

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"

	fetch "holdfast.dev/holdfast/airgap/origin/http"
	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/image/deb"
)

const (
	maxInRelease = 16 << 20
	maxPackages  = 256 << 20 // bytes of a compressed index
)

// Archive names one suite of an archive.
type Archive struct {
	Name       string   // Main or Security
	Suite      string   // such as "trixie", "trixie-updates", "trixie-security"
	Components []string // such as "main", "non-free-firmware"
	Arch       string   // such as "amd64"
}

// IndexFile is one index as it was fetched.
type IndexFile struct {
	Path    string // below the suite's directory
	Content store.Content
}

// IndexResult is what a suite offers, and what says so.
type IndexResult struct {
	Archive          Archive
	URL              string // of the mirror
	InRelease        []byte
	InReleaseContent store.Content
	Release          deb.Release
	Files            []IndexFile
	Index            *deb.Index
}

// Index fetches and verifies the Release file of a suite and the indices of
// its components. Mirrors are tried in order until one serves all of it,
// signed and whole; the error says what was wrong with each.
func Index(ctx context.Context, c *Client, a Archive) (IndexResult, error) {
	urls := c.Mirror.URLs(a.Name)
	if len(urls) == 0 {
		return IndexResult{}, fmt.Errorf("cannot fetch the index of %s: %w for archive %q", a.Suite, ErrNoMirror, a.Name)
	}
	keys := c.Keyring
	if keys == nil {
		var err error
		if keys, err = deb.ArchiveKeys(); err != nil {
			return IndexResult{}, err
		}
	}
	var errs []error
	for _, u := range urls {
		r, err := c.index(ctx, a, u, keys)
		if err == nil {
			return r, nil
		}
		errs = append(errs, fmt.Errorf("cannot use mirror %s for %s: %w", u, a.Suite, err))
		if ctx.Err() != nil {
			break
		}
	}
	return IndexResult{}, errors.Join(errs...)
}

func (c *Client) index(ctx context.Context, a Archive, base string, keys openpgp.EntityList) (IndexResult, error) {
	dir := base + "/dists/" + a.Suite + "/"
	in, err := c.get(ctx, dir+"InRelease", maxInRelease)
	if err != nil {
		return IndexResult{}, err
	}
	rel, err := deb.VerifyInRelease(in, keys, c.Now)
	if err != nil {
		return IndexResult{}, fmt.Errorf("InRelease: %w", err)
	}
	// A mirror may not pass off one suite's signed file as another's.
	if a.Suite != rel.Codename && a.Suite != rel.Suite {
		return IndexResult{}, fmt.Errorf("InRelease: it is of %s (%s), not of %s", rel.Codename, rel.Suite, a.Suite)
	}
	r := IndexResult{
		Archive: a, URL: base, InRelease: in, Release: rel,
		InReleaseContent: store.Content{Digest: store.FromBytes(in), Size: int64(len(in))},
	}
	var parts []*deb.Index
	for _, component := range a.Components {
		file, ix, err := c.component(ctx, a, dir, rel, component)
		if err != nil {
			return IndexResult{}, err
		}
		r.Files = append(r.Files, file)
		parts = append(parts, ix)
	}
	if r.Index, err = deb.Merge(parts...); err != nil {
		return IndexResult{}, err
	}
	return r, nil
}

func (c *Client) component(ctx context.Context, a Archive, dir string, rel deb.Release, component string) (IndexFile, *deb.Index, error) {
	base := component + "/binary-" + a.Arch + "/Packages"
	suffixes := []string{".xz", ".gz", ""}
	i := slices.IndexFunc(suffixes, func(s string) bool { _, ok := rel.Files[base+s]; return ok })
	if i < 0 {
		return IndexFile{}, nil, fmt.Errorf("its Release lists no %s\nhint: %s has the components %s for %s",
			base, rel.Codename, strings.Join(rel.Components, ", "), strings.Join(rel.Architectures, ", "))
	}
	file := IndexFile{base + suffixes[i], rel.Files[base+suffixes[i]]}
	if file.Content.Size > maxPackages {
		return IndexFile{}, nil, fmt.Errorf("%s: %d bytes are more than the %d allowed", file.Path, file.Content.Size, maxPackages)
	}
	b, err := c.indexBytes(ctx, dir, rel, file)
	if err != nil {
		return IndexFile{}, nil, err
	}
	plain, err := deb.Decompressor(bytes.NewReader(b), suffixes[i])
	if err != nil {
		return IndexFile{}, nil, fmt.Errorf("%s: %w", file.Path, err)
	}
	defer plain.Close()
	ix, err := deb.ParsePackages(plain, a.Name, a.Arch)
	return file, ix, err
}

// indexBytes fetches an index by its digest where the mirror offers that: the
// file under its plain name may be replaced between two requests.
func (c *Client) indexBytes(ctx context.Context, dir string, rel deb.Release, f IndexFile) ([]byte, error) {
	urls := []string{dir + f.Path}
	if rel.ByHash {
		urls = slices.Insert(urls, 0, dir+f.Path[:strings.LastIndex(f.Path, "/")+1]+"by-hash/SHA256/"+f.Content.Digest.Hex())
	}
	var err error
	for _, u := range urls {
		var b []byte
		if b, err = c.get(ctx, u, f.Content.Size); err != nil {
			continue
		}
		if got := store.FromBytes(b); got != f.Content.Digest {
			err = fmt.Errorf("cannot use %s: %w: Release says %s, got %s", u, store.ErrMismatch, f.Content.Digest, got)
			continue
		}
		return b, nil
	}
	return nil, err
}

// get reads a small file whole.
func (c *Client) get(ctx context.Context, u string, limit int64) ([]byte, error) {
	a, err := c.transfers().Get(ctx, fetch.Source{URL: u}, limit)
	return a.Body, err
}

// Client is how mirrors are reached.
type Client struct {
	Mirror  Mirror
	Keyring openpgp.EntityList // nil means deb.ArchiveKeys
	Now     time.Time          // against which Release files are verified
	HTTP    *http.Client       // without a time-out of its own; nil means http.DefaultClient
	Backoff time.Duration      // before the second try, doubled for the third; 0 means one second
	Stall   time.Duration      // a transfer without a byte for so long is given up; 0 means one minute
	Workers int                // transfers at once; 0 means six
}

func (c *Client) transfers() *fetch.Client {
	return &fetch.Client{HTTP: c.HTTP, Backoff: c.Backoff, Stall: c.Stall, Workers: c.Workers}
}
