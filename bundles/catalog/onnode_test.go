package catalog

import (
	"fmt"
	"strings"
	"testing"
)

func TestOnNode(t *testing.T) {
	ca := Component{Name: "ca", Namespace: "ca", Secrets: []Secret{{Name: "root", Namespace: "ca", Pairs: []Pair{
		{Key: "tls.key", Certificate: "tls.crt", CommonName: "root", Authority: true}, {Key: "leaf.key", Certificate: "leaf.crt", CommonName: "leaf"}}}},
		Node: OnNode{Authority: &Authority{"root", "tls.crt"}}}
	id := Component{Name: "id", After: []string{"ca"}, Node: OnNode{Registry: "images.DOMAIN", SignIn: &SignIn{"https://id.DOMAIN/realms/x", "api"}}}
	faults := func(all ...Component) (out string) {
		for _, c := range all {
			checkOnNode(c, all, func(format string, a ...any) { out += fmt.Sprintf(format+"\n", a...) })
		}
		return out
	}
	if got := faults(ca, id); got != "" {
		t.Error(got)
	}
	filled := Site{Domain: "demo.example"}.Of([]Component{id})[0].Node
	if filled.Registry != "images.demo.example" || filled.SignIn.Issuer != "https://id.demo.example/realms/x" || id.Node.Registry != "images.DOMAIN" || id.Node.SignIn.Issuer != "https://id.DOMAIN/realms/x" {
		t.Errorf("got %+v from %+v", filled, id.Node)
	}

	leaf, alone, elsewhere := ca, id, id
	leaf.Node.Authority = &Authority{"root", "leaf.crt"}
	alone.After = nil
	elsewhere.Node = OnNode{Registry: "registry.example", SignIn: &SignIn{"http://id.DOMAIN", ""}}
	for _, c := range []struct {
		all  []Component
		want []string
	}{
		{[]Component{leaf}, []string{"the authority leaf.crt of root is no certificate of an authority"}},
		{[]Component{ca, alone}, []string{"nobody that it comes after has an authority"}},
		{[]Component{ca, elsewhere}, []string{`the registry "registry.example" is no name below DOMAIN`, `not "http://id.DOMAIN" and ""`}},
	} {
		got := faults(c.all...)
		for _, w := range c.want {
			if !strings.Contains(got, w) {
				t.Errorf("want %s, got %s", w, got)
			}
		}
	}
}
