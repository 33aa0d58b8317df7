// Package kmod writes, over a file tree, what depmod writes over a directory:
// the modules.* files by which libkmod finds kernel modules.
//
// Modules are .ko files, plain or compressed by xz or zstd, below
// usr/lib/modules/VERSION. A module needs those that export the symbols it
// leaves undefined; symbols that nobody exports are taken to be the kernel's.
// Names and aliases are written with "_" for "-", except between brackets.
//
// # Index format
//
// The .bin files hold version 2.1 of libkmod's index: a trie whose numbers are
// big-endian 32-bit words. A file starts with the magic 0xB007F457, the
// version 0x00020001 and the reference of the root node. A reference is a file
// offset with three flags in its high bits, which say what the node has:
//
//	0x80000000  a prefix: bytes that every key below shares, ended by a NUL
//	0x20000000  children: first byte, last byte, and one reference for each
//	            byte value from first to last, 0 where there is no child
//	0x40000000  values: a count, then for each its priority (smaller is
//	            better) and its text, ended by a NUL
//
// in that order. The byte by which a child is chosen belongs to the key and is
// not repeated in the child's prefix. Keys and values are 7-bit ASCII.
//
// Written are modules.dep, alias, softdep, symbols, weakdep, devname and the
// .bin files of dep, alias, symbols, builtin and builtin.alias. depmod's
// configuration files are not read: a module below updates/ takes the place of
// one with the same name elsewhere, and any other doublet is an error.
package kmod
