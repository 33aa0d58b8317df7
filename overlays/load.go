package overlays

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
)

const maxSite = 1 << 20 // bytes

// Load reads dir/site.yaml and dir/manifests, and looks for private keys in
// dir/manifests, dir/trust, and the charts, values and kustomizations there. Its error joins a [Fault] for each thing that is
// wrong; the Site is of use only without an error.
func Load(dir string) (Site, error) {
	name := filepath.Join(dir, "site.yaml")
	data, err := readFile(name, maxSite)
	if errors.Is(err, os.ErrNotExist) {
		return Site{}, fmt.Errorf("cannot read site: %w\nhint: run \"holdfast init %s\" to make one", err, dir)
	}
	if err != nil {
		return Site{}, fmt.Errorf("cannot read site: %w", err)
	}
	site, faults, err := parseSite(name, data)
	if err != nil {
		return Site{}, err
	}
	manifests, more, err := loadManifests(filepath.Join(dir, "manifests"))
	if err != nil {
		return Site{}, err
	}
	keys, err := findKeys(site.mayHoldKeys(dir)...)
	if err != nil {
		return Site{}, err
	}
	if err := joinFaults(slices.Concat(withFurther(faults, site.checkAuthority(dir)), more, keys)); err != nil {
		return Site{}, err
	}
	site.Manifests = manifests
	return site, nil
}

// parseSite reads one site.yaml. An error is a bug of ours; what is wrong with
// data is in the faults.
func parseSite(name string, data []byte) (Site, []*Fault, error) {
	docs, faults := parseYAML(name, data)
	switch {
	case len(docs) == 0 && len(faults) == 0:
		return Site{}, []*Fault{{File: name, Message: "empty", Hint: `"holdfast schema" describes what belongs here`}}, nil
	case len(docs) == 0:
		return Site{}, faults, nil
	case len(docs) > 1:
		f := docs[1].fault("", false, "a second document", "a site is one document; remove the line ---")
		return Site{}, append(faults, f), nil
	}
	d := docs[0]
	wrong, err := checkSchema(d)
	if err != nil {
		return Site{}, nil, err
	}
	faults = withFurther(faults, wrong)
	site, err := decode(d)
	if err != nil && len(faults) == 0 {
		return Site{}, nil, fmt.Errorf("internal error: cannot decode %s, which the schema accepts: %w", name, err)
	}
	return site, withFurther(faults, site.check()), nil
}

// withFurther adds to first those of further that are about other values: one
// mistake is told once.
func withFurther(first, further []*Fault) []*Fault {
	told := map[string]bool{}
	for _, f := range first {
		for _, p := range f.about {
			told[p] = true
		}
	}
	all := slices.Clip(first)
	for _, f := range further {
		if !slices.ContainsFunc(f.about, func(p string) bool { return told[p] }) {
			all = append(all, f)
		}
	}
	return all
}

// decode takes what fits, so that all checks can run on a faulty file too.
func decode(d *document) (Site, error) {
	site := Site{doc: d}
	b, err := json.Marshal(d.value)
	if err == nil {
		err = json.Unmarshal(b, &site)
	}
	site = site.withDefaults()
	for i, n := range site.Nodes {
		if n.Match.MAC != "" {
			site.Nodes[i].Match.MAC = normalMAC(n.Match.MAC)
		}
	}
	return site, err
}

// readFile reads a regular file of at most limit bytes.
func readFile(name string, limit int64) ([]byte, error) {
	fi, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", name)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s has more than the %d bytes allowed", name, limit)
	}
	return b, nil
}
