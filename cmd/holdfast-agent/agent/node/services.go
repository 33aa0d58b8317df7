package node

import (
	"fmt"
	"net/url"
	"strings"
)

// BroughtRegistry is where "holdfast apply" has a registry listen on each node of
// a cluster. containerd asks it for images that are named after it alone.
const BroughtRegistry = "127.0.0.1:5002"

// Services are what the node itself uses of the site's platform.
type Services struct {
	Authority *Authority `json:"authority,omitempty"` // of the others' certificates
	Registry  string     `json:"registry,omitempty"`  // host of the site's registry
	SignIn    *SignIn    `json:"signIn,omitempty"`
	Journal   bool       `json:"journal,omitempty"` // somebody reads the node's journal

	Monitoring *Monitoring `json:"monitoring,omitempty"` // somebody watches the node
}

// Authority is a certificate in a secret of the node.
type Authority struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Key       string `json:"key"`
}

// Monitoring is the token, in a secret of the node, by which it is known who asks.
type Monitoring struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Key       string `json:"key"`
}

// SignIn is whose tokens the API accepts.
type SignIn struct {
	Issuer   string `json:"issuer"`
	Audience string `json:"audience"`
}

// check reports what the agent could not use.
func (s Services) check() []error {
	var errs []error
	if a := s.Authority; a != nil && (!label.MatchString(a.Name) || !label.MatchString(a.Namespace)) {
		errs = append(errs, fmt.Errorf("cannot use node.json: authority %q in %q", a.Name, a.Namespace))
	}
	if m := s.Monitoring; m != nil && (!label.MatchString(m.Name) || !label.MatchString(m.Namespace)) {
		errs = append(errs, fmt.Errorf("cannot use node.json: monitoring with %q in %q", m.Name, m.Namespace))
	}
	if s.Registry != "" && !label.MatchString(s.Registry) {
		errs = append(errs, fmt.Errorf("cannot use node.json: registry %q", s.Registry))
	}
	if i := s.SignIn; i != nil && (s.issuer() == "" || i.Audience == "") {
		errs = append(errs, fmt.Errorf("cannot use node.json: issuer %q for %q", i.Issuer, i.Audience))
	}
	if s.Authority == nil && (s.Registry != "" || s.SignIn != nil) {
		errs = append(errs, fmt.Errorf("cannot use node.json: services without their authority"))
	}
	return errs
}

// issuer is the host of SignIn; empty if there is none, or no https.
func (s Services) issuer() string {
	if s.SignIn == nil {
		return ""
	}
	u, err := url.Parse(s.SignIn.Issuer)
	if err != nil || u.Scheme != "https" || !label.MatchString(u.Host) {
		return ""
	}
	return u.Host
}

// Hosts is the node's /etc/hosts. The site's names lead to the node itself, so
// that they need no server of names, which is a pod.
func Hosts(c Config, n Node) []byte {
	names := []string{n.Name}
	if c.Domain != "" {
		names = append(names, "api."+c.Domain)
	}
	for _, host := range []string{c.Services.issuer(), c.Services.Registry} {
		if host != "" {
			names = append(names, host)
		}
	}
	return fmt.Appendf(nil, "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n%s %s\n", n.IP(), strings.Join(names, " "))
}
