package overlays

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

const (
	maxManifest  = 4 << 20 // bytes
	maxManifests = 500     // files
	maxKeyScan   = 16 << 20
)

// loadManifests reads the YAML files of dir, in order of their names; no dir
// means none.
func loadManifests(dir string) ([]Manifest, []*Fault, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read manifests: %w", err)
	}
	var ms []Manifest
	var faults []*Fault
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		switch {
		case strings.HasPrefix(e.Name(), ".") || strings.HasPrefix(e.Name(), "README"):
			continue
		case filepath.Ext(e.Name()) != ".yaml" || e.IsDir():
			faults = append(faults, &Fault{File: name, Message: "not a manifest, and would be left out",
				Hint: "name it *.yaml, directly in manifests/, or move it elsewhere"})
			continue
		case len(ms) == maxManifests:
			faults = append(faults, &Fault{File: dir, Message: fmt.Sprintf("more than %d manifests", maxManifests)})
			return ms, faults, nil
		}
		data, err := readFile(name, maxManifest)
		if err != nil {
			faults = append(faults, &Fault{File: name, Message: err.Error()})
			continue
		}
		ms = append(ms, Manifest{Name: e.Name(), Data: data})
		faults = append(faults, checkManifest(name, data)...)
	}
	return ms, faults, nil
}

func checkManifest(name string, data []byte) []*Fault {
	docs, faults := parseYAML(name, data)
	if len(docs) == 0 && len(faults) == 0 {
		return []*Fault{{File: name, Message: "empty", Hint: "remove the file"}}
	}
	// What may hold secrets is not for terminals and logs.
	secret := bytes.Contains(data, []byte("Secret")) || bytes.Contains(data, []byte("PRIVATE KEY"))
	for _, d := range docs {
		faults = append(faults, checkObject(d, "", d.value)...)
	}
	if secret {
		for _, f := range faults {
			f.Excerpt = ""
		}
	}
	return faults
}

// checkObject checks one Kubernetes object, or each of a List.
func checkObject(d *document, ptr string, v any) (faults []*Fault) {
	o, ok := v.(map[string]any)
	if !ok {
		return []*Fault{d.fault(ptr, false, named(ptr, "not a Kubernetes object"), "")}
	}
	text := func(m map[string]any, key string) string {
		s, _ := m[key].(string)
		return s
	}
	for _, k := range []string{"apiVersion", "kind"} {
		if text(o, k) == "" {
			faults = append(faults, d.fault(pointer(ptr, k), false, named(pointer(ptr, k), "missing"), ""))
		}
	}
	if items, ok := o["items"].([]any); ok && strings.HasSuffix(text(o, "kind"), "List") {
		for i, item := range items {
			faults = append(faults, checkObject(d, fmt.Sprintf("%s/items/%d", ptr, i), item)...)
		}
		return faults
	}
	meta, _ := o["metadata"].(map[string]any)
	if text(meta, "name") == "" {
		at := pointer(pointer(ptr, "metadata"), "name")
		hint := ""
		if text(meta, "generateName") != "" {
			hint = "generateName would make a new object each time"
		}
		faults = append(faults, d.fault(at, false, named(at, "missing"), hint))
	}
	if text(o, "kind") != "Secret" {
		return faults
	}
	for _, k := range []string{"data", "stringData"} {
		if v, ok := o[k]; !ok || v == nil {
			continue
		}
		if m, ok := o[k].(map[string]any); ok && len(m) == 0 {
			continue
		}
		at := pointer(ptr, k)
		faults = append(faults, d.fault(at, true, named(at, fmt.Sprintf("the Secret %q has values", text(meta, "name"))),
			"site files hold no secrets; remove them here and change them where they are in use"))
	}
	return faults
}

var keyForm = regexp.MustCompile(`-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY( BLOCK)?-----`)

// findKeys looks for PEM private keys in every file below dirs.
func findKeys(dirs ...string) ([]*Fault, error) {
	var faults []*Fault
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
			if errors.Is(err, os.ErrNotExist) && name == dir {
				return nil
			}
			if err != nil || e.IsDir() {
				return err
			}
			data, err := readFile(name, maxKeyScan)
			if err != nil {
				faults = append(faults, &Fault{File: name, Message: "cannot look for private keys: " + err.Error()})
				return nil
			}
			if at := keyForm.FindIndex(data); at != nil {
				line := 1 + bytes.Count(data[:at[0]], []byte("\n"))
				column := at[0] - bytes.LastIndexByte(data[:at[0]], '\n')
				faults = append(faults, &Fault{File: name, Line: line, Column: column, Message: "a private key",
					Hint: "keep it outside the site's folder; if it was ever shared, make a new one"})
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("cannot look for private keys: %w", err)
		}
	}
	return faults, nil
}
