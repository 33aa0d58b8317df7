package airgap

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	fetch "holdfast.dev/holdfast/airgap/origin/http"
	"holdfast.dev/holdfast/airgap/store"
)

// The files of a k3s release that a site takes. The first lists the digests of
// the others; nobody signs it, so the lock pins it as well.
const (
	K3sSums    = "sha256sum-amd64.txt"
	K3sProgram = "k3s"
	K3sImages  = "k3s-airgap-images-amd64.tar.zst"
)

// K3sReleases is where the project itself has them.
const K3sReleases = "https://github.com/k3s-io/k3s/releases/download"

const maxSums = 1 << 20

// WantEngine is an engine that is taken as its project released it. Its zero
// value wants none.
type WantEngine struct {
	Name    string
	Version string
	Dir     string   // that holds the files; or
	URLs    []string // of which each has a directory of files for each version
}

// Engine is what the lock holds of it.
type Engine struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Files   []File `json:"files"`
}

// File returns the locked release file of that name.
func (e Engine) File(name string) (File, bool) {
	i := slices.IndexFunc(e.Files, func(f File) bool { return f.Name == name })
	if i < 0 {
		return File{}, false
	}
	return e.Files[i], true
}

func (w WantEngine) fits(e Engine) bool {
	if w.Name != e.Name || w.Version != e.Version {
		return false
	}
	for _, n := range []string{K3sSums, K3sProgram, K3sImages} {
		if _, ok := e.File(n); !ok && w.Name != "" {
			return false
		}
	}
	return true
}

// sources are the places that have a release file, in the order of asking.
func (w WantEngine) sources(name string) []fetch.Source {
	if w.Dir != "" {
		u := url.URL{Scheme: "file", Path: filepath.ToSlash(filepath.Join(w.Dir, name))}
		return []fetch.Source{{URL: u.String()}}
	}
	var out []fetch.Source
	for _, base := range w.URLs {
		// A "+" in a path means itself, but not to every server.
		out = append(out, fetch.Source{URL: strings.TrimSuffix(base, "/") + "/" + strings.ReplaceAll(w.Version, "+", "%2B") + "/" + name})
	}
	return out
}

func (w WantEngine) hint() string {
	if w.Dir != "" {
		return fmt.Sprintf("put the three files of the release %s into %s: %s, %s, %s", w.Version, w.Dir, K3sProgram, K3sImages, K3sSums)
	}
	return fmt.Sprintf("does release %s exist? Another place goes into mirrors.k3s in site.yaml, a directory into kubernetes.files", w.Version)
}

// engineFits says where l does not hold the engine that r asks for.
func (r Request) engineFits(l Lock) error {
	if r.Engine.fits(l.Engine) {
		return nil
	}
	if r.Engine.Name == "" {
		return fmt.Errorf("%s %s is locked, and the site does not ask for its release files any more", l.Engine.Name, l.Engine.Version)
	}
	return fmt.Errorf("the release files of %s %s are not locked", r.Engine.Name, r.Engine.Version)
}

// engine keeps what previous has, or takes the release files and the images in
// them anew.
func (r Request) engine(ctx context.Context, previous Lock, net Network, s *store.Store, opt Options) (Engine, []Image, error) {
	w := r.Engine
	if w.Name == "" {
		return Engine{}, nil, nil
	}
	if w.fits(previous.Engine) && !opt.moves(w.Name) {
		return previous.Engine, slices.DeleteFunc(slices.Clone(previous.Images), func(im Image) bool { return !im.ofEngine() }), nil
	}
	e, err := w.resolve(ctx, net, s, opt.Taken)
	if err != nil {
		return Engine{}, nil, fmt.Errorf("cannot lock %s %s: %w", w.Name, w.Version, err)
	}
	if said, err := e.saysVersion(s); err == nil && !said {
		opt.notice(fmt.Sprintf("the program %s nowhere says %s: is it of that release? Its files do not tell", K3sProgram, e.Version))
	}
	images, err := w.images(ctx, e, s, opt.Taken)
	for _, im := range images {
		if slices.ContainsFunc(r.Images, func(o WantImage) bool { return o.Name == im.Name }) {
			err = errors.Join(err, fmt.Errorf("image %s comes with it\nhint: remove it from images in site.yaml; manifests may use it", im.Name))
		}
	}
	if err != nil {
		return Engine{}, nil, fmt.Errorf("cannot lock %s %s: %w", w.Name, w.Version, err)
	}
	return e, images, nil
}

// resolve brings the release files into s and pins them.
func (w WantEngine) resolve(ctx context.Context, net Network, s *store.Store, progress func(done, total int64, name string)) (Engine, error) {
	sums, err := w.sums(ctx, net)
	if err != nil {
		return Engine{}, err
	}
	digests, err := parseSums(sums)
	if err != nil {
		return Engine{}, fmt.Errorf("cannot use %s: %w", K3sSums, err)
	}
	e := Engine{Name: w.Name, Version: w.Version}
	c, err := s.WriteBytes(sums)
	errs := []error{err}
	e.Files = append(e.Files, File{K3sSums, c})
	for _, name := range []string{K3sProgram, K3sImages} {
		d, ok := digests[name]
		if !ok {
			errs = append(errs, fmt.Errorf("cannot use %s: it has no line for %s", K3sSums, name))
			continue
		}
		n, err := w.size(ctx, net, name)
		errs = append(errs, err)
		e.Files = append(e.Files, File{name, store.Content{Digest: d, Size: n}})
	}
	if err := errors.Join(errs...); err != nil {
		return Engine{}, err
	}
	return e, w.fetch(ctx, e, net, s, progress)
}

// sums reads the list of digests from the first place that has it.
func (w WantEngine) sums(ctx context.Context, net Network) ([]byte, error) {
	var errs []error
	for _, src := range w.sources(K3sSums) {
		a, err := net.Files.Get(ctx, src, maxSums)
		if err == nil {
			return a.Body, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("%w\nhint: %s", errors.Join(errs...), w.hint())
}

func (w WantEngine) size(ctx context.Context, net Network, name string) (int64, error) {
	var errs []error
	for _, src := range w.sources(name) {
		n, err := net.Files.Size(ctx, src)
		if err == nil {
			return n, nil
		}
		errs = append(errs, err)
	}
	return 0, fmt.Errorf("%w\nhint: %s", errors.Join(errs...), w.hint())
}

// fetch brings the release files that e pins into s.
func (w WantEngine) fetch(ctx context.Context, e Engine, net Network, s *store.Store, progress func(done, total int64, name string)) error {
	var items []fetch.Item
	for _, f := range e.Files {
		items = append(items, fetch.Item{
			Content: f.Content, Name: fmt.Sprintf("%s of %s %s", f.Name, e.Name, e.Version), Sources: w.sources(f.Name), Gone: w.hint(),
		})
	}
	if err := net.Files.Fetch(ctx, s, items, progress); err != nil {
		if errors.Is(err, store.ErrMismatch) {
			err = fmt.Errorf("%w\nhint: the file is damaged, or of another release than %s; if it is the lock that is old, run \"holdfast lock --update %s\"", err, K3sSums, e.Name)
		}
		return err
	}
	return nil
}

// parseSums reads what sha256sum prints: a digest and a file's name in each line.
func parseSums(b []byte) (map[string]store.Digest, error) {
	out := map[string]store.Digest{}
	lines := bufio.NewScanner(bytes.NewReader(b))
	for n := 1; lines.Scan(); n++ {
		if strings.TrimSpace(lines.Text()) == "" {
			continue
		}
		hex, name, ok := strings.Cut(strings.TrimSpace(lines.Text()), " ")
		d, err := store.ParseDigest("sha256:" + hex)
		if name = strings.TrimPrefix(strings.TrimSpace(name), "*"); !ok || err != nil || name == "" {
			return nil, fmt.Errorf("line %d is not a SHA-256 and a file's name", n)
		}
		if was, twice := out[name]; twice && was != d {
			return nil, fmt.Errorf("line %d: %s is there with two digests", n, name)
		}
		out[name] = d
	}
	return out, lines.Err()
}

// saysVersion looks for the version in the program, which k3s is linked with.
func (e Engine) saysVersion(s *store.Store) (bool, error) {
	p, _ := e.File(K3sProgram)
	f, err := s.Open(p.Content)
	if err != nil {
		return false, err
	}
	defer f.Close()
	want, buf := []byte(e.Version), make([]byte, 1<<20)
	kept := 0 // of the block before, as the version may lie over its end
	for {
		n, err := f.Read(buf[kept:])
		if bytes.Contains(buf[:kept+n], want) {
			return true, nil
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return false, err
		}
		end := kept + n
		kept = copy(buf, buf[max(0, end-len(want)):end])
	}
}

// collectEngine brings the engine's release files and the images in them into s.
func (r Request) collectEngine(ctx context.Context, l Lock, net Network, s *store.Store, progress func(done, total int64, name string)) error {
	w := r.Engine
	if w.Name == "" {
		return nil
	}
	if err := w.fetch(ctx, l.Engine, net, s, progress); err != nil {
		return err
	}
	lacking := slices.ContainsFunc(l.Images, func(im Image) bool { return im.ofEngine() && imageMissing(im, s, nil) > 0 })
	if !lacking {
		return nil
	}
	images, err := w.images(ctx, l.Engine, s, progress)
	if err != nil {
		return err
	}
	var errs []error
	for _, im := range images {
		if was, ok := l.Image(im.Name); !ok || was.Content != im.Content {
			errs = append(errs, fmt.Errorf("image %s of %s is %s, not what was locked\nhint: run \"holdfast lock --update %s\"", im.Name, K3sImages, im.Digest, w.Name))
		}
	}
	return errors.Join(errs...)
}

// MissingEngine names the locked release files that s does not have whole.
func MissingEngine(l Lock, s *store.Store) []string {
	var out []string
	for _, f := range l.Engine.Files {
		if s.Check(f.Content) != nil {
			out = append(out, f.Name)
		}
	}
	return out
}

// engineUpstream asks whether the release files are still what the lock says.
func (r Request) engineUpstream(ctx context.Context, l Lock, net Network) (gone []string, err error) {
	w := r.Engine
	if w.Name == "" || !w.fits(l.Engine) {
		return nil, nil
	}
	sums, err := w.sums(ctx, net)
	if errors.Is(err, fetch.ErrGone) {
		return []string{w.Name + " " + w.Version}, nil
	}
	if err != nil {
		return nil, err
	}
	if f, _ := l.Engine.File(K3sSums); store.FromBytes(sums) != f.Digest {
		gone = append(gone, w.Name+" "+w.Version)
	}
	return gone, nil
}
