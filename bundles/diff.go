package bundles

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles/sbom"
)

// Difference prices a release against an earlier one.
type Difference struct {
	Facts    Facts           `json:"facts"`
	Index    store.Content   `json:"index"`
	Since    Since           `json:"since"`
	Size     int64           `json:"size"`     // bytes of the difference as a file
	Whole    int64           `json:"whole"`    // bytes of the whole bundle
	Items    []Item          `json:"items"`    // the dearest first
	Packages []PackageChange `json:"packages"` // the dearest first
}

// PartForm is the kind of the item that is carried always: index, signatures,
// the manifests of parts, and the form of the file.
const PartForm = "form"

// Item is a file of a part or an image that is not as it was.
type Item struct {
	Kind      string `json:"kind"` // a part, or PartForm
	Component string `json:"component,omitempty"`
	Name      string `json:"name"`
	Change    string `json:"change"` // added, changed, removed
	From      string `json:"from,omitempty"`
	Patch     bool   `json:"patch,omitempty"` // carried as a patch
	Bytes     int64  `json:"bytes"`           // carried; a blob of several items counts for the first
}

// PackageChange is a package that is not as it was in something that holds it.
type PackageChange struct {
	Name string   `json:"name"`
	From string   `json:"from,omitempty"` // versions, separated by commas
	To   string   `json:"to,omitempty"`
	In   []string `json:"in"` // root.erofs, names of images
	// Bytes are those of what holds it, which other packages may have changed
	// as well: they do not add up.
	Bytes int64 `json:"bytes"`
}

// Diff prices what a difference of v from base carries, file by file and image
// by image, and names the packages that made it necessary. What may come
// as a patch is priced whole: the patch would have to be made.
func Diff(v, base *Verified) (Difference, error) {
	return diff(context.Background(), v, base, false, nil)
}

// DiffPacked is Diff with patches priced as PackSince carries them, which takes
// as long as making them. Items add up to the size of the file.
func DiffPacked(ctx context.Context, v, base *Verified, progress Progress) (Difference, error) {
	return diff(ctx, v, base, true, progress)
}

func diff(ctx context.Context, v, base *Verified, patch bool, progress Progress) (Difference, error) {
	fail := func(err error) (Difference, error) {
		return Difference{}, fmt.Errorf("cannot price release %d: %w", v.Facts().Release, err)
	}
	d := Difference{Facts: v.Facts(), Index: v.Index(), Since: base.asBase()}
	files, err := v.layoutSince(ctx, base, patch, progress)
	if err != nil {
		return fail(err)
	}
	whole, err := v.layoutSince(ctx, nil, false, nil)
	if err != nil {
		return fail(err)
	}
	var err1, err2 error
	d.Size, err1 = packedSize(files)
	d.Whole, err2 = packedSize(whole)
	if err := errors.Join(err1, err2); err != nil {
		return fail(err)
	}
	carried := map[store.Content]bool{}
	for _, f := range files {
		carried[f.Content] = true
	}
	patches := map[store.Content]int64{}
	for _, f := range files {
		if f.patch.generate != nil {
			patches[f.patch.makes] = f.Content.Size
		}
	}
	if d.Items, err = items(v, base, carried, patches); err != nil {
		return fail(err)
	}
	form := Item{Kind: PartForm, Name: "index, signatures, manifests", Change: "changed", Bytes: d.Size}
	for _, it := range d.Items {
		form.Bytes -= it.Bytes
	}
	d.Items = append(d.Items, form)
	if d.Packages, err = packageChanges(v, base, d.Items); err != nil {
		return fail(err)
	}
	slices.SortStableFunc(d.Items, func(a, b Item) int { return cmp.Compare(b.Bytes, a.Bytes) })
	return d, nil
}

// holding is what an item consists of.
type holding struct {
	Item
	blobs []store.Content
}

// holdings lists the files and images of a release in the order of its index.
func (v *Verified) holdings() ([]holding, error) {
	var out []holding
	for _, p := range v.contents.parts {
		if p.kind == PartImage {
			cs, err := v.children(p)
			if err != nil {
				return nil, err
			}
			out = append(out, holding{Item{Kind: p.kind, Component: p.component, Name: p.name}, append(cs, p.manifest)})
			continue
		}
		for _, f := range v.contents.files[p.manifest.Digest] {
			out = append(out, holding{Item{Kind: p.kind, Component: p.component, Name: f.Title}, []store.Content{f.Content}})
		}
	}
	return out, nil
}

// repository is an image's name without tag and digest.
func repository(name string) string {
	name, _, _ = strings.Cut(name, "@")
	if i := strings.LastIndex(name, ":"); i > strings.LastIndex(name, "/") {
		name = name[:i]
	}
	return name
}

// key is by what a holding is found again in another release: an image by its
// name, and what is left then by its name without the tag.
func (h holding) key(exact bool) string {
	name := h.Name
	if h.Kind == PartImage && !exact {
		name = repository(name)
	}
	component := h.Component
	if h.Kind == PartImage {
		component = ""
	}
	return h.Kind + " " + component + " " + name
}

func items(v, base *Verified, carried map[store.Content]bool, patches map[store.Content]int64) ([]Item, error) {
	now, err := v.holdings()
	if err != nil {
		return nil, err
	}
	before, err := base.holdings()
	if err != nil {
		return nil, err
	}
	gone := slices.Clone(before)
	take := func(h holding, exact bool) (holding, bool) {
		i := slices.IndexFunc(gone, func(b holding) bool { return b.key(exact) == h.key(exact) })
		if i < 0 {
			return holding{}, false
		}
		b := gone[i]
		gone = slices.Delete(gone, i, i+1)
		return b, true
	}
	matched := make([]*holding, len(now))
	for _, exact := range []bool{true, false} {
		for i, h := range now {
			if matched[i] == nil {
				if b, ok := take(h, exact); ok {
					matched[i] = &b
				}
			}
		}
	}
	var out []Item
	for i, h := range now {
		it := h.Item
		for _, c := range h.blobs[:len(h.blobs)-extra(h)] {
			if carried[c] {
				it.Bytes += c.Size
				delete(carried, c)
			}
		}
		if n, ok := patches[h.blobs[0]]; ok {
			it.Patch = true
			it.Bytes += n
		}
		switch b := matched[i]; {
		case b == nil:
			it.Change = "added"
		case b.Name != h.Name:
			it.Change, it.From = "changed", b.Name
		case !slices.Equal(b.blobs, h.blobs):
			it.Change = "changed"
		default:
			continue
		}
		out = append(out, it)
	}
	for _, b := range gone {
		it := b.Item
		it.Change = "removed"
		out = append(out, it)
	}
	return out, nil
}

// extra is how many of a holding's last blobs are carried always: an image's
// manifest.
func extra(h holding) int {
	if h.Kind == PartImage {
		return 1
	}
	return 0
}

// versions are the versions of a package in one holder, with their digests.
type versions map[string]map[string]bool

// inHolders reads an SBOM: holder, package, its versions. A holder is
// root.erofs or an image's repository.
func (v *Verified) inHolders() (map[string]versions, error) {
	f, ok := v.File(PartSBOM, SBOMJSON)
	if !ok {
		return nil, errors.New("the release has no SBOM")
	}
	r, err := v.OpenBlob(f.Content)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	list, err := sbom.Read(r)
	if err == nil {
		_, err = io.Copy(io.Discard, r) // to where it is checked
	}
	if err != nil {
		return nil, fmt.Errorf("%s of release %d: %w", SBOMJSON, v.Facts().Release, err)
	}
	holders := map[string]string{} // by ID
	for _, l := range list {
		switch {
		case l.Purpose == "CONTAINER":
			holders[l.ID] = repository(l.Name)
		case l.Name == RootErofs:
			holders[l.ID] = RootErofs
		}
	}
	out := map[string]versions{}
	for _, l := range list {
		for _, id := range l.In {
			h, ok := holders[id]
			if !ok {
				continue
			}
			if out[h] == nil {
				out[h] = versions{}
			}
			if out[h][l.Name] == nil {
				out[h][l.Name] = map[string]bool{}
			}
			out[h][l.Name][l.Version+" "+l.SHA256] = true
		}
	}
	return out, nil
}

func packageChanges(v, base *Verified, its []Item) ([]PackageChange, error) {
	now, err := v.inHolders()
	if err != nil {
		return nil, err
	}
	before, err := base.inHolders()
	if err != nil {
		return nil, err
	}
	price := map[string]int64{}
	for _, it := range its {
		if it.Kind == PartImage {
			price[repository(it.Name)] += it.Bytes
		} else if it.Kind == PartOS {
			price[it.Name] += it.Bytes
		}
	}
	found := map[[3]string]*PackageChange{}
	for _, h := range sortedKeys(before, now) {
		for _, name := range sortedKeys(before[h], now[h]) {
			if maps.Equal(before[h][name], now[h][name]) {
				continue
			}
			from, to := list(before[h][name]), list(now[h][name])
			key := [3]string{name, from, to}
			if found[key] == nil {
				found[key] = &PackageChange{Name: name, From: from, To: to}
			}
			found[key].In = append(found[key].In, h)
			found[key].Bytes += price[h]
		}
	}
	var out []PackageChange
	for _, c := range found {
		out = append(out, *c)
	}
	slices.SortFunc(out, func(a, b PackageChange) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Name, b.Name), cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To))
	})
	return out, nil
}

func sortedKeys[V any](a, b map[string]V) []string {
	return slices.Compact(slices.Sorted(func(yield func(string) bool) {
		for _, m := range []map[string]V{a, b} {
			for k := range m {
				if !yield(k) {
					return
				}
			}
		}
	}))
}

// list writes versions without their digests.
func list(vs map[string]bool) string {
	var out []string
	for k := range vs {
		version, _, _ := strings.Cut(k, " ")
		out = append(out, version)
	}
	slices.Sort(out)
	return strings.Join(slices.Compact(out), ", ")
}
