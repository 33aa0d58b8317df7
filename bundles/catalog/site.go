package catalog

import (
	"maps"
	"regexp"
	"slices"
)

// Site is what manifests and hooks say of the site that they are rendered for.
// As whole words, DOMAIN in them stands for its domain and ADDRESS for the IP
// address under which its services are reached.
type Site struct{ Domain, Address string }

var siteWord = regexp.MustCompile(`\b(DOMAIN|ADDRESS)\b`)

// Of returns the components with the words replaced.
func (s Site) Of(all []Component) []Component {
	word := func(w []byte) []byte {
		if string(w) == "DOMAIN" {
			return []byte(s.Domain)
		}
		return []byte(s.Address)
	}
	fill := func(f File) File { return File{f.Name, siteWord.ReplaceAllFunc(f.Data, word)} }
	out := slices.Clone(all)
	for i, c := range out {
		out[i].Manifests = nil
		for _, f := range c.Manifests {
			out[i].Manifests = append(out[i].Manifests, fill(f))
		}
		out[i].Hooks = maps.Clone(c.Hooks)
		for name, f := range c.Hooks {
			out[i].Hooks[name] = fill(f)
		}
		out[i].Secrets = slices.Clone(c.Secrets)
		for j, secret := range out[i].Secrets {
			pairs := slices.Clone(secret.Pairs)
			for k := range pairs {
				pairs[k].CommonName = string(siteWord.ReplaceAllFunc([]byte(pairs[k].CommonName), word))
			}
			out[i].Secrets[j].Pairs = pairs
		}
		out[i].Uses = slices.Clone(c.Uses)
		for j, u := range c.Uses {
			out[i].Uses[j].Words = map[string]string{}
			for w, said := range u.Words {
				out[i].Uses[j].Words[w] = string(siteWord.ReplaceAllFunc([]byte(said), word))
			}
		}
		out[i].Node = c.Node.of(word)
	}
	return out
}
