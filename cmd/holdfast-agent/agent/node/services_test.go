package node

import (
	"strings"
	"testing"
)

func services() Services {
	return Services{
		Authority: &Authority{Namespace: "certificates", Name: "site-authority", Key: "tls.crt"},
		Registry:  "registry.demo.example",
		SignIn:    &SignIn{Issuer: "https://id.demo.example/realms/site", Audience: "kubernetes"},
	}
}

func TestHosts(t *testing.T) {
	n := Node{Name: "node1", Address: "10.0.2.15/24"}
	const local = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"
	if got, want := string(Hosts(Config{}, n)), local+"10.0.2.15 node1\n"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	c := Config{Domain: "demo.example", Services: services()}
	if got, want := string(Hosts(c, n)), local+"10.0.2.15 node1 api.demo.example id.demo.example registry.demo.example\n"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestBadServices(t *testing.T) {
	if errs := services().check(); len(errs) > 0 {
		t.Error(errs)
	}
	for want, change := range map[string]func(*Services){
		`authority "../x"`:           func(s *Services) { s.Authority.Name = "../x" },
		`registry "a b"`:             func(s *Services) { s.Registry = "a b" },
		`issuer "http://id.example"`: func(s *Services) { s.SignIn.Issuer = "http://id.example" },
		`issuer "https://id/\n"`:     func(s *Services) { s.SignIn.Issuer = "https://id/\n" },
		"without their authority":    func(s *Services) { s.Authority = nil },
	} {
		s := services()
		change(&s)
		var said string
		for _, err := range s.check() {
			said += err.Error()
		}
		if !strings.Contains(said, want) {
			t.Errorf("want %s, got %q", want, said)
		}
	}
}
