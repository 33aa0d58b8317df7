package update

import (
	"io/fs"
	"os"
	"syscall"
)

// keepOwner gives a copy its original's owner and mode.
func keepOwner(name string, of fs.FileInfo) error {
	if st, ok := of.Sys().(*syscall.Stat_t); ok {
		if err := os.Chown(name, int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
	}
	return os.Chmod(name, of.Mode().Perm())
}
