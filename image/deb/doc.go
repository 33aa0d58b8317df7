// Package deb reads Debian's archives without dpkg or apt: signed Release
// files, Packages indices, package files. It chooses a closed set of packages
// and puts their files into a [rootfs.Tree]; maintainer scripts are listed by
// digest and never run. Nothing here uses a network.
//
// What is read: .deb format 2.0 (deb(5)) with members compressed by xz, gzip,
// zstd or not at all; control syntax (deb822(5)); clear-signed Release files
// with SHA-256 tables. Everything else is refused.
package deb
