package sbom

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// MaxElements bounds the packages and the relationships that Read takes.
const MaxElements = 200_000

// maxBytes bounds what Read keeps of a document.
const maxBytes = 64 << 20

// Listed is a package of a document, and what contains it.
type Listed struct {
	ID      string
	Name    string
	Version string
	Purpose string   // LIBRARY, FILE, CONTAINER, …
	SHA256  string   // 64 hexadecimal digits, or empty
	In      []string // the IDs of the packages that contain it
}

// Read reads the packages of an SPDX 2.3 document, in their order there. What
// r gives after the document is the caller's.
func Read(r io.Reader) ([]Listed, error) {
	l := lister{at: map[string]int{}}
	d := json.NewDecoder(r)
	if err := object(d, func(name string) error {
		switch name {
		case "packages":
			return array(d, l.pkg)
		case "relationships":
			return array(d, l.relation)
		}
		var skip json.RawMessage
		return d.Decode(&skip)
	}); err != nil {
		return nil, fmt.Errorf("cannot read SBOM: %w", err)
	}
	for _, c := range l.contains {
		if i, ok := l.at[c[1]]; ok {
			l.out[i].In = append(l.out[i].In, c[0])
		}
	}
	return l.out, nil
}

type lister struct {
	bound
	out      []Listed
	at       map[string]int
	contains [][2]string // parent, child
}

// bound limits what is kept of a document.
type bound struct{ size int }

// keep counts what is kept against the limit.
func (b *bound) keep(words ...string) error {
	for _, w := range words {
		b.size += len(w)
	}
	if b.size > maxBytes {
		return fmt.Errorf("more than the %d bytes allowed", maxBytes)
	}
	return nil
}

func (l *lister) pkg(b json.RawMessage) error {
	var p packageJSON
	if err := json.Unmarshal(b, &p); err != nil {
		return err
	}
	if len(l.out) == MaxElements {
		return fmt.Errorf("more than the %d packages allowed", MaxElements)
	}
	if _, ok := l.at[p.ID]; ok {
		return fmt.Errorf("the package %q is there twice", p.ID)
	}
	x := Listed{ID: p.ID, Name: p.Name, Version: p.Version, Purpose: p.Purpose}
	for _, c := range p.Checksums {
		if c.Algorithm == "SHA256" {
			x.SHA256 = c.Value
		}
	}
	l.at[p.ID] = len(l.out)
	l.out = append(l.out, x)
	return l.keep(x.ID, x.Name, x.Version, x.Purpose, x.SHA256)
}

func (l *lister) relation(b json.RawMessage) error {
	var r relationJSON
	if err := json.Unmarshal(b, &r); err != nil {
		return err
	}
	if len(l.contains) == MaxElements {
		return fmt.Errorf("more than the %d relationships allowed", MaxElements)
	}
	if r.Type == "CONTAINS" {
		l.contains = append(l.contains, [2]string{r.From, r.To})
	}
	return l.keep(r.From, r.To)
}

// object calls member with the name of each member of a JSON object; member
// reads its value.
func object(d *json.Decoder, member func(name string) error) error {
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return errors.Join(errors.New("not a JSON object"), err)
	}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return err
		}
		name, _ := t.(string)
		if err := member(name); err != nil {
			return err
		}
	}
	_, err := d.Token()
	return err
}

func array(d *json.Decoder, element func(json.RawMessage) error) error {
	if t, err := d.Token(); err != nil || t != json.Delim('[') {
		return errors.Join(errors.New("not a JSON array"), err)
	}
	for d.More() {
		var b json.RawMessage
		if err := d.Decode(&b); err != nil {
			return err
		}
		if err := element(b); err != nil {
			return err
		}
	}
	_, err := d.Token()
	return err
}
