package image

import (
	"embed"
	"errors"
	"io/fs"
	"strings"

	"holdfast.dev/holdfast/image/rootfs"
)

// engineFiles are laid out as on the node, below the name of an engine that
// brings its own container runtime: its unit, and what of it is on /var.
//
//go:embed all:engines
var engineFiles embed.FS

// enginePackages are what containerd and the kubelet call, where the engine
// does not bring it: for all but k3s.
var enginePackages = []string{"runc", "containernetworking-plugins"}

// K3s is the program of the engine k3s in the root; it is many programs in one,
// and its other names are links to it.
const K3s = "usr/bin/k3s"

// addEngine puts in the files of the plan's engine.
func addEngine(t *rootfs.Tree, p Plan) error {
	if p.Engine == "" {
		return nil
	}
	root := "engines/" + p.Engine
	err := fs.WalkDir(engineFiles, root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := engineFiles.ReadFile(name)
		if err != nil {
			return err
		}
		return t.WriteFile(strings.TrimPrefix(name, root+"/"), b, 0o644, p.Epoch)
	})
	const units = "usr/lib/systemd/system/"
	errs := []error{
		err,
		t.Mkdir("etc/rancher", 0o755, p.Epoch),
		t.Symlink("../etc-rancher.mount", units+"local-fs.target.wants/etc-rancher.mount", p.Epoch),
	}
	for _, name := range []string{"kubectl", "crictl", "ctr"} {
		errs = append(errs, t.Symlink("k3s", "usr/bin/"+name, p.Epoch))
	}
	return errors.Join(errs...)
}
