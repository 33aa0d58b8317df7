package deb

// Pin returns an index in which each package of versions has that version
// alone, where ix has it, and gone, sorted, are the packages that ix has no
// longer in that version: they keep what versions ix has.
func (ix *Index) Pin(versions map[string]string) (pinned *Index, gone []string) {
	p := &Index{Arch: ix.Arch, packages: make(map[string][]Package, len(ix.packages)), providers: ix.providers}
	for name, ps := range ix.packages {
		if v, ok := versions[name]; ok {
			if q, ok := ix.GetVersion(name, v); ok {
				ps = []Package{q}
			}
		}
		p.packages[name] = ps
	}
	for _, name := range sortedKeys(versions) {
		if _, ok := ix.GetVersion(name, versions[name]); !ok {
			gone = append(gone, name)
		}
	}
	return p, gone
}
