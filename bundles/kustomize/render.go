package kustomize

import (
	"bytes"
	"errors"
	"fmt"
	"path"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// maxRendered bounds what a kustomization gives, in bytes.
const maxRendered = 32 << 20

// Render gives the objects of s as YAML, one document each. It renders twice,
// and a difference is an error.
func (s Source) Render() ([]byte, error) {
	first, err := s.pass()
	if err != nil {
		return nil, err
	}
	second, err := s.pass()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(first, second) {
		return nil, fmt.Errorf("cannot render %s: it gives something else each time", s.Dir)
	}
	return first, nil
}

// root is where the site's directory stands in the file system that kustomize
// is given. There is nothing else in it.
const root = "/site"

func (s Source) pass() (out []byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("cannot render %s: %v", s.Dir, r)
		}
	}()
	mem := filesys.MakeFsInMemory()
	for _, f := range s.Files {
		if err := mem.WriteFile(path.Join(root, f.Name), f.Data); err != nil {
			return nil, fmt.Errorf("cannot render %s: %w", s.Dir, err)
		}
	}
	k := krusty.MakeKustomizer(&krusty.Options{
		Reorder:          krusty.ReorderOptionNone,
		LoadRestrictions: types.LoadRestrictionsRootOnly,
		PluginConfig:     types.DisabledPluginConfig(),
	})
	all, err := k.Run(mem, path.Join(root, s.Dir))
	if err != nil {
		return nil, fmt.Errorf("cannot render %s: %w", s.Dir, err)
	}
	if all.Size() == 0 {
		return nil, errors.New("cannot render " + s.Dir + ": it has no objects")
	}
	if out, err = all.AsYaml(); err != nil {
		return nil, fmt.Errorf("cannot render %s: %w", s.Dir, err)
	}
	if len(out) > maxRendered {
		return nil, fmt.Errorf("cannot render %s: %d bytes, more than the %d allowed", s.Dir, len(out), maxRendered)
	}
	return out, nil
}
