package image

import (
	"bufio"
	"bytes"
	"cmp"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"holdfast.dev/holdfast/image/rootfs"
)

// A user and a group as /etc/passwd and /etc/group have them.
type user struct {
	name        string
	uid, gid    int
	gecos       string
	home, shell string
}

type group struct {
	name    string
	gid     int
	members []string
}

// accounts makes /etc/passwd, group, shadow and gshadow from base-passwd's
// templates and from sysusers.d(5), as systemd-sysusers would at the first
// boot: on a read-only root it has to happen here. Of sysusers.d it reads the
// types u, u!, g and m with a numeric or "-" id. Ids not fixed by a file count
// down from 999 in the order of the names, so that they are the same in every
// build of the same packages. No account has a password.
func accounts(t *rootfs.Tree, mtime int64) error {
	us, gs, err := masters(t)
	if err != nil {
		return err
	}
	lines, err := sysusersLines(t)
	if err != nil {
		return err
	}
	taken := map[int]bool{}
	for _, u := range us {
		taken[u.uid] = true
	}
	for _, g := range gs {
		taken[g.gid] = true
	}
	for _, l := range lines {
		for id := range strings.SplitSeq(l.id, ":") {
			if n, err := strconv.Atoi(id); err == nil {
				taken[n] = true
			}
		}
	}
	next := 999
	free := func() int {
		for taken[next] {
			next--
		}
		taken[next] = true
		return next
	}
	slices.SortStableFunc(lines, func(a, b sysusersLine) int {
		return cmp.Or(a.rank()-b.rank(), strings.Compare(a.name, b.name))
	})
	addGroup := func(name string, gid int) int {
		if i := slices.IndexFunc(gs, func(g group) bool { return g.name == name }); i >= 0 {
			return gs[i].gid
		}
		gs = append(gs, group{name: name, gid: gid})
		return gid
	}
	for _, l := range lines {
		switch l.kind {
		case "g":
			id := -1
			if l.id != "-" {
				if id, err = strconv.Atoi(l.id); err != nil {
					return fmt.Errorf("cannot make group %s: id %q is not a number", l.name, l.id)
				}
			} else if !hasGroup(gs, l.name) {
				id = free()
			}
			addGroup(l.name, id)
		case "u", "u!":
			if slices.ContainsFunc(us, func(u user) bool { return u.name == l.name }) {
				continue
			}
			u := user{name: l.name, gecos: l.gecos, home: l.home, shell: l.shell}
			uid, gid, hasGID := strings.Cut(l.id, ":")
			if uid == "-" {
				u.uid = free()
			} else if u.uid, err = strconv.Atoi(uid); err != nil {
				return fmt.Errorf("cannot make user %s: id %q is not a number", l.name, l.id)
			}
			if hasGID {
				if u.gid, err = strconv.Atoi(gid); err != nil {
					i := slices.IndexFunc(gs, func(g group) bool { return g.name == gid })
					if i < 0 {
						return fmt.Errorf("cannot make user %s: no group %q", l.name, gid)
					}
					u.gid = gs[i].gid
				}
			} else {
				u.gid = addGroup(l.name, u.uid)
			}
			us = append(us, u)
		}
	}
	for _, l := range lines {
		if l.kind != "m" {
			continue
		}
		i := slices.IndexFunc(gs, func(g group) bool { return g.name == l.id })
		if i < 0 {
			return fmt.Errorf("cannot make %s a member of %s: no such group", l.name, l.id)
		}
		if !slices.Contains(gs[i].members, l.name) {
			gs[i].members = append(gs[i].members, l.name)
		}
	}
	slices.SortFunc(us, func(a, b user) int { return a.uid - b.uid })
	slices.SortFunc(gs, func(a, b group) int { return a.gid - b.gid })
	return writeAccounts(t, us, gs, mtime)
}

func hasGroup(gs []group, name string) bool {
	return slices.ContainsFunc(gs, func(g group) bool { return g.name == name })
}

func writeAccounts(t *rootfs.Tree, us []user, gs []group, mtime int64) error {
	var passwd, shadow, groups, gshadow bytes.Buffer
	shadowGID := 0
	for _, u := range us {
		shell := u.shell
		if shell == "" || shell == "-" {
			shell = "/usr/sbin/nologin"
		}
		home := u.home
		if home == "" || home == "-" {
			home = "/"
		}
		fmt.Fprintf(&passwd, "%s:x:%d:%d:%s:%s:%s\n", u.name, u.uid, u.gid, u.gecos, home, shell)
		// "!*" never matches a password, and the account counts as locked.
		fmt.Fprintf(&shadow, "%s:!*:1::::::\n", u.name)
	}
	for _, g := range gs {
		if g.name == "shadow" {
			shadowGID = g.gid
		}
		m := strings.Join(g.members, ",")
		fmt.Fprintf(&groups, "%s:x:%d:%s\n", g.name, g.gid, m)
		fmt.Fprintf(&gshadow, "%s:!*::%s\n", g.name, m)
	}
	put := func(name string, b *bytes.Buffer, perm uint32, gid int) error {
		return t.Put(rootfs.File{Path: name, Mode: rootfs.TypeRegular | perm, GID: gid, MTime: mtime, Data: rootfs.Bytes(b.Bytes())})
	}
	for _, f := range []struct {
		name string
		b    *bytes.Buffer
		perm uint32
		gid  int
	}{
		{"etc/passwd", &passwd, 0o644, 0},
		{"etc/group", &groups, 0o644, 0},
		{"etc/shadow", &shadow, 0o640, shadowGID},
		{"etc/gshadow", &gshadow, 0o640, shadowGID},
	} {
		if err := put(f.name, f.b, f.perm, f.gid); err != nil {
			return err
		}
	}
	return nil
}

// masters reads base-passwd's templates, where the package is there.
func masters(t *rootfs.Tree) ([]user, []group, error) {
	us := []user{{name: "root", gecos: "root", home: "/root", shell: "/usr/sbin/nologin"}}
	gs := []group{{name: "root"}}
	err := eachLine(t, "usr/share/base-passwd/passwd.master", func(line string) error {
		f := strings.Split(line, ":")
		if len(f) != 7 {
			return fmt.Errorf("%q has %d fields, not 7", line, len(f))
		}
		uid, err1 := strconv.Atoi(f[2])
		gid, err2 := strconv.Atoi(f[3])
		if err1 != nil || err2 != nil {
			return fmt.Errorf("%q has no numeric ids", line)
		}
		if f[0] != "root" {
			us = append(us, user{name: f[0], uid: uid, gid: gid, gecos: f[4], home: f[5], shell: f[6]})
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	err = eachLine(t, "usr/share/base-passwd/group.master", func(line string) error {
		f := strings.Split(line, ":")
		if len(f) != 4 {
			return fmt.Errorf("%q has %d fields, not 4", line, len(f))
		}
		gid, err := strconv.Atoi(f[2])
		if err != nil {
			return fmt.Errorf("%q has no numeric id", line)
		}
		if f[0] != "root" {
			gs = append(gs, group{name: f[0], gid: gid})
		}
		return nil
	})
	return us, gs, err
}

type sysusersLine struct{ kind, name, id, gecos, home, shell string }

// rank puts fixed ids first, as a dynamic one must not take theirs, and last
// users whose group is given by name, as it may have a dynamic id itself.
func (l sysusersLine) rank() int {
	if _, group, ok := strings.Cut(l.id, ":"); ok {
		if _, err := strconv.Atoi(group); err != nil {
			return 2
		}
	}
	if l.id == "-" {
		return 1
	}
	return 0
}

func sysusersLines(t *rootfs.Tree) ([]sysusersLine, error) {
	var lines []sysusersLine
	for _, f := range t.Files() {
		if path.Dir(f.Path) != "usr/lib/sysusers.d" || path.Ext(f.Path) != ".conf" {
			continue
		}
		err := eachLine(t, f.Path, func(line string) error {
			w, err := fields(line)
			if err != nil {
				return err
			}
			if len(w) < 2 {
				return fmt.Errorf("%q is too short", line)
			}
			for len(w) < 6 {
				w = append(w, "-")
			}
			switch w[0] {
			case "u", "u!", "g", "m":
			case "r":
				return nil
			default:
				return fmt.Errorf("%q: type %q is not known here", line, w[0])
			}
			gecos := w[3]
			if gecos == "-" {
				gecos = ""
			}
			lines = append(lines, sysusersLine{w[0], w[1], w[2], gecos, w[4], w[5]})
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return lines, nil
}

// fields splits a line as systemd does: by spaces, with double quotes.
func fields(line string) ([]string, error) {
	var out []string
	for rest := strings.TrimSpace(line); rest != ""; rest = strings.TrimSpace(rest) {
		if rest[0] == '"' {
			end := strings.IndexByte(rest[1:], '"')
			if end < 0 {
				return nil, fmt.Errorf("%q: a quote is not closed", line)
			}
			out = append(out, rest[1:1+end])
			rest = rest[end+2:]
			continue
		}
		w, r, _ := strings.Cut(strings.ReplaceAll(rest, "\t", " "), " ")
		out = append(out, w)
		rest = r
	}
	return out, nil
}

// eachLine calls fn for the lines of a file that hold something; a file that
// is not there has none.
func eachLine(t *rootfs.Tree, name string, fn func(string) error) error {
	b, err := t.ReadFile(name, 1<<20)
	if err != nil {
		return err
	}
	sc := bufio.NewScanner(bytes.NewReader(b))
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimSpace(sc.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		if err := fn(line); err != nil {
			return fmt.Errorf("cannot read /%s, line %d: %w", name, n, err)
		}
	}
	return sc.Err()
}
