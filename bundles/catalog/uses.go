package catalog

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"holdfast.dev/holdfast/airgap/store"
)

// client stands in a hook, as a word, for the name of the component that it
// runs for.
const client = "CLIENT"

var (
	clientWord = regexp.MustCompile(`\b` + client + `\b`)
	wordForm   = regexp.MustCompile(`^[A-Z]{3,}$`)
	// What stands for a word may stand in YAML and in an argument as it is.
	saidForm = regexp.MustCompile(`^[A-Za-z0-9:/._-]+$`)
)

// AllNeeds are the components that must be ready before c is applied: those
// that it names and those whose offers it uses and waits for.
func (c Component) AllNeeds() []string {
	out := slices.Clone(c.Needs)
	for _, u := range c.Uses {
		if !u.late && !slices.Contains(out, u.Component) {
			out = append(out, u.Component)
		}
	}
	return out
}

// AlsoUses are the components whose offers c uses without waiting for them.
func (c Component) AlsoUses() []string {
	var out []string
	for _, u := range c.Uses {
		if u.late && !slices.Contains(out, u.Component) {
			out = append(out, u.Component)
		}
	}
	return out
}

// Wire gives each component of all what follows from the offers it uses: the
// secrets that it shares with the one that offers, and the hooks' Jobs among its
// manifests, rendered for it. Jobs of the result's First have to end before
// workloads are applied.
func Wire(all []Component) ([]Component, error) {
	out := slices.Clone(all)
	var errs []error
	for i, c := range all {
		for _, u := range c.Uses {
			p, o, ok := find(all, u)
			if !ok {
				errs = append(errs, fmt.Errorf("cannot wire component %s: nothing offers it %s of %s", c.Name, u.Offer, u.Component))
				continue
			}
			var hook []File
			out[i], hook = wire(out[i], p, o, u)
			if u.late {
				j := slices.IndexFunc(out, func(c Component) bool { return c.Name == p.Name })
				out[j].late = slices.Concat(out[j].late, hook)
			} else {
				out[i].hooks = slices.Concat(out[i].hooks, hook)
			}
		}
	}
	return out, errors.Join(errs...)
}

func find(all []Component, u Use) (Component, Offer, bool) {
	for _, p := range all {
		for _, o := range p.Offers {
			if p.Name == u.Component && o.Name == u.Offer {
				return p, o, true
			}
		}
	}
	return Component{}, Offer{}, false
}

// wire gives c the secrets of an offer of p; hook is the Job that p runs for it,
// if there is one.
func wire(c, p Component, o Offer, u Use) (wired Component, hook []File) {
	c.Secrets = slices.Clone(c.Secrets)
	if o.Share != nil {
		if i := slices.IndexFunc(p.Secrets, func(s Secret) bool { return s.Name == o.Share.Secret }); u.late && i >= 0 {
			c.Secrets = append(c.Secrets, p.Secrets[i]) // whichever comes first makes it
		}
		c.Secrets = append(c.Secrets, Secret{Name: u.Secret, Namespace: c.Namespace, From: &From{Name: o.Share.Secret, Namespace: p.Namespace, Keys: o.Share.Keys}})
	}
	if len(o.Generate) > 0 {
		c.Secrets = append(c.Secrets,
			Secret{Name: u.Secret, Namespace: c.Namespace, Generate: o.Generate},
			Secret{Name: o.Name + "-" + c.Name, Namespace: p.Namespace, From: &From{Name: u.Secret, Namespace: c.Namespace}})
	}
	if o.Hook == "" {
		return c, nil
	}
	forClient := func(name string) []File {
		h := p.Hooks[name]
		h.Data = clientWord.ReplaceAll(h.Data, []byte(c.Name))
		for word, said := range u.Words {
			h.Data = regexp.MustCompile(`\b`+word+`\b`).ReplaceAllLiteral(h.Data, []byte(said))
		}
		return []File{h}
	}
	if c.Rollback == Restore && o.Dump != "" {
		c.dumps = slices.Concat(c.dumps, forClient(o.Dump))
		c.puts = slices.Concat(c.puts, forClient(o.Restore))
	}
	return c, forClient(o.Hook)
}

// ReadHooks returns the Jobs that are among the manifests of c for what is used
// of it or by it, as Read does.
func ReadHooks(c Component) ([]Object, error) {
	return Read(Component{Name: c.Name, Manifests: slices.Concat(c.hooks, c.late, c.dumps, c.puts)})
}

// When is the annotation of an object that is not there all the time: with
// Confirmed not on trial, with the others as a Job at the one moment.
const (
	When        = "holdfast.dev/when"
	WhenDump    = "dump"
	WhenRestore = "restore"
)

// renderAllHooks renders those of all kinds.
func renderAllHooks(c Component, digests map[string]store.Digest) ([]object, error) {
	now, err1 := renderHooks(c, slices.Concat(c.hooks, c.late), "", digests)
	dump, err2 := renderHooks(c, c.dumps, WhenDump, digests)
	restore, err3 := renderHooks(c, c.puts, WhenRestore, digests)
	return slices.Concat(now, dump, restore), errors.Join(err1, err2, err3)
}

// renderHooks pins Jobs. What a Job does is in its name, as a Job cannot be
// changed: another release's is another.
func renderHooks(c Component, hooks []File, when string, digests map[string]store.Digest) ([]object, error) {
	read, err := Read(Component{Name: c.Name, Manifests: hooks})
	errs := []error{err}
	var out []object
	for _, o := range read {
		if o.Kind != "Job" || o.Namespace == "" {
			errs = append(errs, fmt.Errorf("cannot use %s: a hook is one Job with its namespace, not %s %s/%s", o.File, o.Kind, o.Namespace, o.Name))
			continue
		}
		meta := o.Data["metadata"].(map[string]any)
		if when != "" {
			notes, _ := meta["annotations"].(map[string]any)
			notes = maps.Clone(notes)
			if notes == nil {
				notes = map[string]any{}
			}
			notes[When] = when
			meta["annotations"] = notes
		}
		ready, err := o.pin(digests)
		if err == nil {
			sum := sha256.Sum256(ready.yaml)
			o.Name += "-" + hex.EncodeToString(sum[:4])
			meta["name"] = o.Name
			ready, err = o.canonical()
		}
		errs = append(errs, err)
		out = append(out, ready)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return out, nil
}

// First are the Jobs that must have ended before the workloads of c are
// applied, as Render names them.
func First(c Component, digests map[string]store.Digest) ([]Ready, error) {
	objects, err := renderHooks(c, c.hooks, "", digests)
	if err != nil {
		return nil, err
	}
	var out []Ready
	for _, o := range objects {
		out = append(out, Ready{Kind: o.kind, Namespace: o.namespace, Name: o.name})
	}
	return out, nil
}

// checkShape reports what is wrong with what c offers and uses.
func checkShape(c Component, all []Component, fault func(string, ...any)) {
	for _, o := range c.Offers {
		checkGenerate(o.Name, o.Generate, fault)
		if o.Name == "" || c.Namespace == "" || (o.Hook == "") == (o.Share == nil) || o.Hook == "" && len(o.Generate) > 0 {
			fault("an offer needs a name, a namespace, and either a hook or a secret to share")
		}
		if o.Share != nil {
			i := slices.IndexFunc(c.Secrets, func(s Secret) bool { return s.Name == o.Share.Secret && s.Namespace == c.Namespace })
			if i < 0 || len(o.Share.Keys) == 0 {
				fault("offer %s: it shares keys of %s, which is not a secret in its namespace", o.Name, o.Share.Secret)
			} else {
				for _, k := range o.Share.Keys {
					if !c.Secrets[i].has(k) {
						fault("offer %s: secret %s has no %s", o.Name, o.Share.Secret, k)
					}
				}
			}
		}
		for _, w := range o.Words {
			if !wordForm.MatchString(w) || slices.Contains([]string{client, "DOMAIN", "ADDRESS"}, w) || !bytes.Contains(c.Hooks[o.Hook].Data, []byte(w)) {
				fault("offer %s: %q is no word of capitals in its hook", o.Name, w)
			}
		}
		if (o.Dump == "") != (o.Restore == "") || o.Dump != "" && o.Hook == "" {
			fault("offer %s: dump and restore are for a hook, and both or none", o.Name)
		}
		for _, name := range []string{o.Hook, o.Dump, o.Restore} {
			h, ok := c.Hooks[name]
			if name == "" {
				continue
			}
			if !ok {
				fault("offer %s: there is no hooks/%s", o.Name, name)
				continue
			}
			objects, err := renderHooks(c, []File{h}, "", placeholders(all))
			if err != nil {
				fault("offer %s: %w", o.Name, err)
			}
			for _, j := range objects {
				if j.namespace != c.Namespace || !strings.Contains(j.name, client) {
					fault("offer %s: its Job %s/%s is to be in its own namespace, with %s in its name", o.Name, j.namespace, j.name, client)
				}
			}
		}
	}
	dumped := false
	for _, u := range c.Uses {
		_, o, ok := find(all, u)
		dumped = dumped || o.Dump != ""
		if !ok {
			fault("it uses %s of %s, which nothing offers", u.Offer, u.Component)
		}
		if said := slices.Sorted(maps.Keys(u.Words)); ok && !slices.Equal(said, slices.Sorted(slices.Values(o.Words))) {
			fault("to use %s of %s it has to say %q, and says %q", u.Offer, u.Component, o.Words, said)
		}
		for w, said := range u.Words {
			if !saidForm.MatchString(said) {
				fault("to use %s of %s: %s is %q; want letters, digits and : / . _ -", u.Offer, u.Component, w, said)
			}
		}
		if gets := o.Share != nil || len(o.Generate) > 0; gets != (u.Secret != "") || c.Namespace == "" {
			fault("to use %s of %s it needs a namespace and, if it gets one, a name for the secret", u.Offer, u.Component)
		}
	}
	if c.Rollback == Restore && !dumped {
		fault("its data are to be restored, and it uses no offer with dump and restore")
	}
}

func (s Secret) has(key string) bool {
	_, ok := s.Generate[key]
	return ok || slices.ContainsFunc(s.Pairs, func(p Pair) bool { return p.Key == key || p.Certificate == key })
}

func checkGenerate(secret string, generate map[string]int, fault func(string, ...any)) {
	for key, n := range generate {
		if n < 16 || n > 1024 {
			fault("secret %s: %s of %d characters; want 16 to 1024", secret, key, n)
		}
	}
}

// keepsData reports whether a workload of objects has volumes of its own.
func keepsData(objects []object) bool {
	return slices.ContainsFunc(objects, func(o object) bool {
		return o.kind == "PersistentVolumeClaim" || bytes.Contains(o.yaml, []byte("volumeClaimTemplates:"))
	})
}
