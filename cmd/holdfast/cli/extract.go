package cli

import (
	"errors"
	"fmt"
	"io"
	"os"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/image/erofs"
)

// extract takes an executable out of a root image.
func extract(s *store.Store, root store.Content, name, dst string) error {
	f, err := s.Open(root)
	if err != nil {
		return fmt.Errorf("cannot read the root: %w", err)
	}
	defer f.Close()
	fsys, err := erofs.Open(f)
	if err != nil {
		return err
	}
	src, err := fsys.Open(name)
	if err != nil {
		return fmt.Errorf("cannot take /%s out of the root: %w", name, err)
	}
	defer src.Close()
	tmp := dst + ".partial"
	defer os.Remove(tmp)
	out, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o755)
	if err != nil {
		return fmt.Errorf("cannot take /%s out of the root: %w", name, err)
	}
	_, err = io.Copy(out, src)
	if err := errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("cannot take /%s out of the root: %w", name, err)
	}
	return os.Rename(tmp, dst)
}
