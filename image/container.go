package image

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"holdfast.dev/holdfast/airgap"
	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/image/oci"
	"holdfast.dev/holdfast/image/rootfs"
)

// Container is a container image to be composed from locked parts.
type Container struct {
	Name     string           `json:"name"`          // full reference with tag
	Base     store.Content    `json:"base,omitzero"` // manifest of an image that all else is put over
	Packages []airgap.Package `json:"packages"`
	Programs []ContainerFile  `json:"programs"`
	Archives []Archive        `json:"archives,omitempty"` // put over the packages
	Files    []rootfs.File    `json:"-"`                  // put over both
	Steps    []Step           `json:"steps,omitempty"`    // run over all of these, one after the other
	Config   oci.Config       `json:"config"`
}

// ContainerFile is a compiled program in a container image.
type ContainerFile struct {
	Path    string        `json:"path"`    // in the image
	Program store.Content `json:"program"` // in the store
}

// Archive is a tar.gz that is unpacked into an image without its top directory.
type Archive struct {
	Name string `json:"name"` // for messages
	store.Content
	Path string   `json:"path"` // of the directory in the image
	Drop []string `json:"drop"` // what is left out, below that directory
}

// containerDropped is left out of container images.
var containerDropped = []string{
	"usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale", "usr/share/lintian",
	"usr/share/bash-completion", "usr/share/bug", "usr/share/doc-base", "boot", "etc/init.d",
	"usr/lib/systemd", "etc/cron.d", "etc/cron.daily",
}

func containerDrop(name string) bool {
	if strings.HasPrefix(name, "usr/share/doc/") && strings.HasSuffix(name, "/copyright") {
		return false
	}
	for _, d := range containerDropped {
		if strings.HasPrefix(name, d+"/") {
			return true
		}
	}
	return false
}

// ContainerTime is the time of all files in composed images, and of the images:
// 1980, where the calendars of the oldest formats begin. With the time of a lock
// each release would have other images, nodes would start all pods anew, and a
// difference would carry them, where nothing in them changed.
const ContainerTime = 315532800

// ComposeContainer makes the image and returns its manifest. Packages and
// programs are separate layers: a program that changes carries nothing else
// along. A result that the store has is used again.
func ComposeContainer(ctx context.Context, s *store.Store, c Container, identity store.Digest, progress func(done, total int)) (store.Content, error) {
	c.Programs = slices.Clone(c.Programs)
	var files []string
	all := c.Files
	for _, st := range c.Steps {
		all = slices.Concat(all, st.Files)
	}
	for _, f := range all {
		b, err := readData(f)
		if err != nil {
			return store.Content{}, fmt.Errorf("cannot compose image %s: %w", c.Name, err)
		}
		files = append(files, fmt.Sprint(f.Path, f.Mode, f.UID, f.GID, f.Target, store.FromBytes(b)))
	}
	key, err := store.Key("container", c, files, ContainerTime, identity)
	if err != nil {
		return store.Content{}, err
	}
	var known struct {
		Manifest store.Content
		Layers   []store.Content
	}
	if s.Recall(key, &known) {
		errs := []error{s.Check(known.Manifest)}
		for _, l := range known.Layers {
			errs = append(errs, s.Check(l))
		}
		if errors.Join(errs...) == nil {
			return known.Manifest, nil
		}
	}
	layers, err := containerLayers(ctx, s, c, progress)
	if err != nil {
		return store.Content{}, fmt.Errorf("cannot compose image %s: %w", c.Name, err)
	}
	config := c.Config
	if c.Base != (store.Content{}) {
		base, says, err := oci.Base(s, c.Base)
		if err != nil {
			return store.Content{}, fmt.Errorf("cannot compose image %s: %w", c.Name, err)
		}
		layers, config = append(base, layers...), says.Over(config)
	}
	for _, st := range c.Steps {
		l, err := st.layer(ctx, s, layers)
		if err != nil {
			return store.Content{}, fmt.Errorf("cannot compose image %s: %w", c.Name, err)
		}
		layers = append(layers, l)
	}
	for _, l := range layers {
		known.Layers = append(known.Layers, l.Content)
	}
	if known.Manifest, err = oci.Compose(s, layers, config, ContainerTime, oci.LinuxAMD64); err != nil {
		return store.Content{}, fmt.Errorf("cannot compose image %s: %w", c.Name, err)
	}
	return known.Manifest, s.Remember(key, known)
}

func containerLayers(ctx context.Context, s *store.Store, c Container, progress func(done, total int)) ([]oci.LayerDesc, error) {
	var layers []oci.LayerDesc
	if len(c.Packages) > 0 {
		t, err := Unpack(ctx, s, c.Packages, ContainerTime, containerDrop, progress)
		if err != nil {
			return nil, err
		}
		if err := errors.Join(accounts(t, ContainerTime), alternatives(t, ContainerTime), t.Mkdir("tmp", 0o1777, ContainerTime)); err != nil {
			return nil, err
		}
		l, err := oci.Layer(s, t, ContainerTime)
		if err != nil {
			return nil, err
		}
		layers = append(layers, l)
	}
	for _, a := range c.Archives {
		t, err := a.tree(s)
		if err != nil {
			return nil, err
		}
		l, err := oci.Layer(s, t, ContainerTime)
		if err != nil {
			return nil, err
		}
		layers = append(layers, l)
	}
	top := rootfs.New(ContainerTime)
	for _, f := range c.Files {
		f.MTime = ContainerTime
		if err := top.Put(f); err != nil {
			return nil, err
		}
	}
	for _, p := range c.Programs {
		if err := s.Check(p.Program); err != nil {
			return nil, err
		}
		if err := top.Put(rootfs.File{
			Path: p.Path, Mode: rootfs.TypeRegular | 0o755, MTime: ContainerTime,
			Data: rootfs.Section{Name: s.Path(p.Program.Digest), Length: p.Program.Size},
		}); err != nil {
			return nil, err
		}
	}
	if top.Len() > 1 {
		l, err := oci.Layer(s, top, ContainerTime)
		if err != nil {
			return nil, err
		}
		layers = append(layers, l)
	}
	return layers, nil
}

func readData(f rootfs.File) ([]byte, error) {
	if !f.IsRegular() {
		return nil, nil
	}
	t := rootfs.New(0)
	if err := t.Put(f); err != nil {
		return nil, err
	}
	return t.ReadFile(f.Path, 16<<20)
}
