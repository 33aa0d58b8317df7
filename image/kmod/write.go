package kmod

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"holdfast.dev/holdfast/image/rootfs"
)

// Write puts the index files into t, with time mtime. The lists of what is built
// into the kernel are read from modules.builtin and modules.builtin.modinfo in t.
func (x Index) Write(t *rootfs.Tree, version string, mtime int64) error {
	deps, err := x.closures()
	if err != nil {
		return err
	}
	builtin, err := readLines(t, Dir(version)+"/modules.builtin")
	if err != nil {
		return err
	}
	builtinAliases, err := readBuiltinAliases(t, Dir(version)+"/modules.builtin.modinfo")
	if err != nil {
		return err
	}
	var depsText, depsBin = x.deps(deps)
	var builtins []entry
	for _, l := range builtin {
		builtins = append(builtins, entry{Name(l), "", 0})
	}
	out := map[string][]byte{
		"modules.dep":     depsText,
		"modules.alias":   x.aliasText(),
		"modules.softdep": x.depText("softdep", "Soft", func(m Module) []string { return m.Softdeps }),
		"modules.weakdep": x.depText("weakdep", "Weak", func(m Module) []string { return m.Weakdeps }),
		"modules.symbols": x.symbolText(),
		"modules.devname": x.devnames(),
	}
	for name, es := range map[string][]entry{
		"modules.dep.bin":           depsBin,
		"modules.alias.bin":         x.aliases(),
		"modules.symbols.bin":       x.symbols(),
		"modules.builtin.bin":       builtins,
		"modules.builtin.alias.bin": builtinAliases,
	} {
		b, e := encodeIndex(es)
		if e != nil {
			err = errors.Join(err, fmt.Errorf("cannot write %s: %w", name, e))
		}
		out[name] = b
	}
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(out)) {
		if err := t.WriteFile(Dir(version)+"/"+name, out[name], 0o644, mtime); err != nil {
			return err
		}
	}
	return nil
}

// closures returns for each module, by name, all modules it needs, those first
// that need others: the reverse of the order in which they can be loaded.
func (x Index) closures() (map[string][]Module, error) {
	at := map[string]int{}
	for i, m := range x.Modules {
		at[m.Name] = i
	}
	users := make([]int, len(x.Modules))
	for _, m := range x.Modules {
		for _, d := range m.Deps {
			i, ok := at[d]
			if !ok {
				return nil, fmt.Errorf("cannot index module %s: it needs %s, which is not there", m.Name, d)
			}
			users[i]++
		}
	}
	var ready []int
	for i, n := range users {
		if n == 0 {
			ready = append(ready, i)
		}
	}
	rank := make([]int, len(x.Modules))
	done := 0
	// Last in, first out is what gives depmod's order.
	for len(ready) > 0 {
		i := ready[len(ready)-1]
		ready = ready[:len(ready)-1]
		rank[i] = done
		done++
		for _, d := range x.Modules[i].Deps {
			j := at[d]
			if users[j]--; users[j] == 0 {
				ready = append(ready, j)
			}
		}
	}
	if done < len(x.Modules) {
		var names []string
		for i, n := range users {
			if n > 0 {
				names = append(names, x.Modules[i].Name)
			}
		}
		return nil, fmt.Errorf("cannot order modules: they need each other: %s", strings.Join(names, ", "))
	}
	all := map[string][]Module{}
	for _, m := range x.Modules {
		seen := map[int]bool{}
		var visit func(Module)
		visit = func(m Module) {
			for _, d := range m.Deps {
				if i := at[d]; !seen[i] {
					seen[i] = true
					visit(x.Modules[i])
				}
			}
		}
		visit(m)
		needs := slices.SortedFunc(maps.Keys(seen), func(a, b int) int { return rank[a] - rank[b] })
		for _, i := range needs {
			all[m.Name] = append(all[m.Name], x.Modules[i])
		}
	}
	return all, nil
}

func (x Index) deps(all map[string][]Module) (text []byte, es []entry) {
	for i, m := range x.Modules {
		line := m.Path + ":"
		for _, d := range all[m.Name] {
			line += " " + d.Path
		}
		text = append(append(text, line...), '\n')
		es = append(es, entry{m.Name, line, uint32(i)})
	}
	return text, es
}

func (x Index) aliasText() []byte {
	var b bytes.Buffer
	b.WriteString("# Aliases extracted from modules themselves.\n")
	for _, m := range x.Modules {
		for _, a := range m.Aliases {
			fmt.Fprintf(&b, "alias %s %s\n", a, m.Name)
		}
	}
	return b.Bytes()
}

func (x Index) aliases() (es []entry) {
	for i, m := range x.Modules {
		for _, a := range m.Aliases {
			if n, ok := normalAlias(a); ok {
				es = append(es, entry{n, m.Name, uint32(i)})
			}
		}
	}
	return es
}

// normalAlias writes "_" for "-" outside brackets; an alias with an unmatched
// bracket is no pattern, and no module can be asked for by it.
func normalAlias(a string) (string, bool) {
	b := []byte(a)
	in := false
	for i, c := range b {
		switch {
		case c == '[':
			in = true
		case c == ']' && !in:
			return "", false
		case c == ']':
			in = false
		case c == '-' && !in:
			b[i] = '_'
		}
	}
	return string(b), !in
}

func (x Index) depText(word, title string, get func(Module) []string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# %s dependencies extracted from modules themselves.\n", title)
	for _, m := range x.Modules {
		for _, d := range get(m) {
			fmt.Fprintf(&b, "%s %s %s\n", word, m.Name, d)
		}
	}
	return b.Bytes()
}

func (x Index) symbols() (es []entry) {
	owner := map[string]int{}
	for i, m := range x.Modules {
		for _, s := range m.Exports {
			owner[s] = i
		}
	}
	for _, s := range slices.Sorted(maps.Keys(owner)) {
		es = append(es, entry{"symbol:" + s, x.Modules[owner[s]].Name, uint32(owner[s])})
	}
	return es
}

func (x Index) symbolText() []byte {
	var b bytes.Buffer
	b.WriteString("# Aliases for symbols, used by symbol_request().\n")
	for _, e := range x.symbols() {
		fmt.Fprintf(&b, "alias %s %s\n", e.key, e.value)
	}
	return b.Bytes()
}

// devnames lists the device nodes that exist before their module is loaded.
func (x Index) devnames() []byte {
	var b bytes.Buffer
	for _, m := range x.Modules {
		var name, kind string
		var major, minor uint
		for _, a := range m.Aliases {
			var ma, mi uint
			if n, ok := strings.CutPrefix(a, "devname:"); ok {
				name = n
			} else if n, _ := fmt.Sscanf(a, "char-major-%d-%d", &ma, &mi); n == 2 {
				kind, major, minor = "c", ma, mi
			} else if n, _ := fmt.Sscanf(a, "block-major-%d-%d", &ma, &mi); n == 2 {
				kind, major, minor = "b", ma, mi
			}
			if name != "" && kind != "" {
				break
			}
		}
		if name == "" || kind == "" {
			continue
		}
		if b.Len() == 0 {
			b.WriteString("# Device nodes to trigger on-demand module loading.\n")
		}
		fmt.Fprintf(&b, "%s %s %s%d:%d\n", m.Name, name, kind, major, minor)
	}
	return b.Bytes()
}

// readBuiltinAliases reads modules.builtin.modinfo: "module.key=value", each
// ended by a NUL.
func readBuiltinAliases(t *rootfs.Tree, name string) ([]entry, error) {
	b, err := t.ReadFile(name, maxText)
	if err != nil {
		return nil, err
	}
	var es []entry
	for s := range strings.SplitSeq(string(b), "\x00") {
		key, value, _ := strings.Cut(s, "=")
		module, key, _ := strings.Cut(key, ".")
		if key != "alias" {
			continue
		}
		if a, ok := normalAlias(value); ok && a != "" {
			es = append(es, entry{a, module, 0})
		}
	}
	return es, nil
}
