package catalog

import (
	"strings"
	"testing"
)

func TestSiteOf(t *testing.T) {
	const text = "host: id.DOMAIN\nurl: https://id.DOMAIN/x\nat: ADDRESS:443\nother: MY_DOMAIN SUBDOMAIN DOMAINS ADDRESSES domain\n"
	c := Component{
		Name: "web", Manifests: []File{{"manifests/web.yaml", []byte(text)}}, Hooks: map[string]File{"h.yaml": {"hooks/h.yaml", []byte("CLIENT.DOMAIN")}},
		Secrets: []Secret{{Name: "a", Pairs: []Pair{{CommonName: "DOMAIN site authority"}}}},
	}
	got := Site{"demo.example", "192.0.2.7"}.Of([]Component{c})[0]
	want := "host: id.demo.example\nurl: https://id.demo.example/x\nat: 192.0.2.7:443\nother: MY_DOMAIN SUBDOMAIN DOMAINS ADDRESSES domain\n"
	if string(got.Manifests[0].Data) != want || string(got.Hooks["h.yaml"].Data) != "CLIENT.demo.example" || got.Secrets[0].Pairs[0].CommonName != "demo.example site authority" {
		t.Errorf("got %s, %s, %s", got.Manifests[0].Data, got.Hooks["h.yaml"].Data, got.Secrets[0].Pairs[0].CommonName)
	}
	if string(c.Manifests[0].Data) != text || !strings.Contains(string(c.Hooks["h.yaml"].Data), "DOMAIN") || !strings.Contains(c.Secrets[0].Pairs[0].CommonName, "DOMAIN") {
		t.Error("what was given is changed")
	}
}
