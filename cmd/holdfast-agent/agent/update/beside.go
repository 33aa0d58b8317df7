package update

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/atomicfile"
)

// maxBeside bounds a file of Machine.Beside; they hold keys and tokens.
const maxBeside = 1 << 20

// besideOf is the directory of these files, beside a copy of the datastore.
func besideOf(copy string) string { return copy + ".beside" }

// copyBeside copies the files of Beside that are there.
func (m Machine) copyBeside(copy string) error {
	if len(m.Beside) == 0 {
		return nil
	}
	dir := besideOf(copy)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("cannot copy the datastore: %w", err)
	}
	for _, name := range m.Beside {
		b, mode, err := readBeside(m.path(name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = atomicfile.Write(filepath.Join(dir, url.PathEscape(name)), b, mode)
		}
		if err != nil {
			return fmt.Errorf("cannot copy %s: %w", name, err)
		}
	}
	return syncPath(dir)
}

// restoreBeside puts the files back that were copied.
func (m Machine) restoreBeside(copy string) error {
	for _, name := range m.Beside {
		b, mode, err := readBeside(filepath.Join(besideOf(copy), url.PathEscape(name)))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = os.MkdirAll(filepath.Dir(m.path(name)), 0o700)
		}
		if err == nil {
			err = atomicfile.Write(m.path(name), b, mode)
		}
		if err != nil {
			return fmt.Errorf("cannot put %s back: %w", name, err)
		}
	}
	return nil
}

func readBeside(name string) ([]byte, fs.FileMode, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	if !fi.Mode().IsRegular() || fi.Size() > maxBeside {
		return nil, 0, fmt.Errorf("%s is no file of at most %d bytes", name, maxBeside)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxBeside))
	return b, fi.Mode().Perm(), err
}
