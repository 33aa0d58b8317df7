package catalog

import (
	"net/url"
	"slices"
	"strings"
)

// OnNode is what the node itself uses of a component: what starts pods and what
// answers to the API are no pods of the platform, and trust nobody unasked.
type OnNode struct {
	Authority *Authority `json:"authority,omitempty"` // that the site's certificates are trusted by
	Registry  string     `json:"registry,omitempty"`  // its host, below DOMAIN; images may come from there
	SignIn    *SignIn    `json:"signIn,omitempty"`    // to the API
	Journal   bool       `json:"journal,omitempty"`   // it reads the node's journal, below /var/log/holdfast

	Monitoring *Monitoring `json:"monitoring,omitempty"` // it watches the node
}

// Authority is a certificate in a secret of the component.
type Authority struct {
	Secret string `json:"secret"`
	Key    string `json:"key"`
}

// Monitoring is a token in a secret of the component.
type Monitoring struct {
	Secret string `json:"secret"`
	Key    string `json:"key"`
}

// SignIn is whose tokens the API accepts, by OpenID Connect.
type SignIn struct {
	Issuer   string `json:"issuer"` // https, below DOMAIN
	Audience string `json:"audience"`
}

func (n OnNode) of(word func([]byte) []byte) OnNode {
	fill := func(s string) string { return string(siteWord.ReplaceAllFunc([]byte(s), word)) }
	n.Registry = fill(n.Registry)
	if n.SignIn != nil {
		n.SignIn = &SignIn{Issuer: fill(n.SignIn.Issuer), Audience: n.SignIn.Audience}
	}
	return n
}

// checkOnNode reports what is wrong with what c has for the node.
func checkOnNode(c Component, all []Component, fault func(string, ...any)) {
	if a := c.Node.Authority; a != nil {
		i := slices.IndexFunc(c.Secrets, func(s Secret) bool { return s.Name == a.Secret && s.Namespace == c.Namespace })
		if i < 0 || !slices.ContainsFunc(c.Secrets[i].Pairs, func(p Pair) bool { return p.Certificate == a.Key && p.Authority }) {
			fault("node: the authority %s of %s is no certificate of an authority in a secret of its own", a.Key, a.Secret)
		}
	}
	if m := c.Node.Monitoring; m != nil && !slices.ContainsFunc(c.Secrets, func(s Secret) bool {
		return s.Name == m.Secret && s.Namespace == c.Namespace && s.Generate[m.Key] > 0
	}) {
		fault("node: the token %s of %s is in no secret of its own", m.Key, m.Secret)
	}
	below := func(host string) bool { return strings.HasSuffix(host, ".DOMAIN") }
	if r := c.Node.Registry; r != "" && !below(r) {
		fault("node: the registry %q is no name below DOMAIN", r)
	}
	if s := c.Node.SignIn; s != nil {
		u, err := url.Parse(s.Issuer)
		if err != nil || u.Scheme != "https" || !below(u.Host) || s.Audience == "" {
			fault("node: signIn needs an issuer below https://….DOMAIN and an audience, not %q and %q", s.Issuer, s.Audience)
		}
	}
	if (c.Node.Registry != "" || c.Node.SignIn != nil) && !slices.ContainsFunc(slices.Concat(c.After, c.AllNeeds()), func(n string) bool { return offersAuthority(n, all) }) {
		fault("node: nobody that it comes after has an authority for the node, and without one its certificate is not trusted")
	}
}

func offersAuthority(name string, all []Component) bool {
	return slices.ContainsFunc(all, func(c Component) bool { return c.Name == name && c.Node.Authority != nil })
}
