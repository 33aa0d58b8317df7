package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/image/oci"
	"holdfast.dev/holdfast/image/rootfs"
	"holdfast.dev/holdfast/image/sandbox"
)

// Step is a program of an image that is run once while the image is made. What
// it writes must be the same bytes whenever and wherever it runs.
type Step struct {
	Run      []string      `json:"run"`
	Env      []string      `json:"env"` // all of its environment
	Archives []Archive     `json:"archives,omitempty"`
	Files    []rootfs.File `json:"-"`    // put over the archives; both are there for the step alone
	Keep     string        `json:"keep"` // the directory of which the image gets what is there then
}

// lastWords is how much of what a step said goes into an error, in bytes.
const lastWords = 4 << 10

// layer runs the step over the image that the layers make, and returns one more.
func (st Step) layer(ctx context.Context, s *store.Store, layers []oci.LayerDesc) (oci.LayerDesc, error) {
	dir, err := os.MkdirTemp(filepath.Join(s.Dir(), "tmp"), "step-")
	if err != nil {
		return oci.LayerDesc{}, err
	}
	defer os.RemoveAll(dir)
	root, err := os.OpenRoot(dir)
	if err != nil {
		return oci.LayerDesc{}, err
	}
	defer root.Close()
	if err := oci.Unpack(ctx, s, layers, root); err != nil {
		return oci.LayerDesc{}, err
	}
	before, err := namesBelow(root, st.Keep)
	if err != nil {
		return oci.LayerDesc{}, err
	}
	if err := st.prepare(ctx, s, root); err != nil {
		return oci.LayerDesc{}, err
	}
	said := tail{limit: lastWords}
	if err := sandbox.Run(ctx, dir, st.Run, st.Env, &said); err != nil {
		return oci.LayerDesc{}, errors.Join(err, said.err())
	}
	t, err := kept(root, st.Keep)
	if err != nil {
		return oci.LayerDesc{}, errors.Join(err, said.err())
	}
	for _, name := range before {
		if _, ok := t.Get(name); !ok {
			return oci.LayerDesc{}, errors.Join(fmt.Errorf("the step removed /%s, which a layer below has", name), said.err())
		}
	}
	return oci.Layer(s, t, ContainerTime)
}

// prepare puts what only the step has into its directory.
func (st Step) prepare(ctx context.Context, s *store.Store, root *os.Root) error {
	var trees []*rootfs.Tree
	for _, a := range st.Archives {
		t, err := a.tree(s)
		if err != nil {
			return err
		}
		trees = append(trees, t)
	}
	top := rootfs.New(ContainerTime)
	for _, d := range []string{"proc", "dev", "tmp"} {
		if err := top.Mkdir(d, 0o755, ContainerTime); err != nil {
			return err
		}
	}
	for _, f := range st.Files {
		if err := top.Put(f); err != nil {
			return err
		}
	}
	for _, t := range append(trees, top) {
		r, w := io.Pipe()
		go func() { w.CloseWithError(oci.WriteTar(w, t, ContainerTime)) }()
		err := oci.UnpackTar(ctx, r, root)
		r.CloseWithError(err)
		if err != nil {
			return err
		}
	}
	return nil
}

// namesBelow lists the files below a directory; none where it is missing.
func namesBelow(root *os.Root, dir string) ([]string, error) {
	var out []string
	err := fs.WalkDir(root.FS(), dir, func(name string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && name == dir {
			return fs.SkipAll
		}
		if err == nil && !d.IsDir() {
			out = append(out, name)
		}
		return err
	})
	return out, err
}

// kept is what the image gets of a directory: files of root's, which others may
// read.
func kept(root *os.Root, dir string) (*rootfs.Tree, error) {
	t := rootfs.New(ContainerTime)
	err := fs.WalkDir(root.FS(), dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		f := rootfs.File{Path: name, Mode: rootfs.TypeRegular | 0o644, MTime: ContainerTime}
		switch {
		case d.IsDir():
			f.Mode = rootfs.TypeDir | 0o755
		case d.Type() == fs.ModeSymlink:
			f.Mode = rootfs.TypeSymlink | 0o777
			if f.Target, err = root.Readlink(name); err != nil {
				return err
			}
		case d.Type().IsRegular():
			if info.Mode()&0o111 != 0 {
				f.Mode |= 0o111
			}
			f.Data = rootfs.Section{Name: path.Join(root.Name(), name), Length: info.Size()}
		default:
			return fmt.Errorf("the step left /%s, which is neither a file nor a directory nor a link", name)
		}
		return t.Put(f)
	})
	if err == nil && t.Len() <= strings.Count(dir, "/")+2 {
		err = fmt.Errorf("the step left nothing in /%s", dir)
	}
	return t, err
}

// tail is the end of what was written to it.
type tail struct {
	limit int
	text  []byte
	cut   bool
}

func (t *tail) Write(b []byte) (int, error) {
	t.text = append(t.text, b...)
	if n := len(t.text) - t.limit; n > 0 {
		t.text, t.cut = append([]byte(nil), t.text[n:]...), true
	}
	return len(b), nil
}

func (t *tail) err() error {
	text := t.text
	if t.cut { // the first line is not whole
		_, text, _ = bytes.Cut(text, []byte("\n"))
	}
	if len(bytes.TrimSpace(text)) == 0 {
		return errors.New("it said nothing")
	}
	return fmt.Errorf("it said last:\n%s", bytes.TrimRight(text, "\n"))
}
