package rootfs

// Mkdir puts a directory owned by root into the tree, or changes its mode.
func (t *Tree) Mkdir(name string, perm uint32, mtime int64) error {
	return t.Put(File{Path: name, Mode: TypeDir | perm, MTime: mtime})
}

// Symlink puts a link to target at name, in place of a file or link there.
func (t *Tree) Symlink(target, name string, mtime int64) error {
	return t.Put(File{Path: name, Mode: TypeSymlink | 0o777, Target: target, MTime: mtime})
}

// WriteFile puts a regular file owned by root into the tree.
func (t *Tree) WriteFile(name string, data []byte, perm uint32, mtime int64) error {
	return t.Put(File{Path: name, Mode: TypeRegular | perm, MTime: mtime, Data: Bytes(data)})
}
