package debian_test

import (
	"errors"
	"strings"
	"testing"
	"testing/fstest"

	"holdfast.dev/holdfast/airgap/origin/debian"
)

func env(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

var apt = fstest.MapFS{
	"sources.list": {Data: []byte("# old style\ndeb [arch=amd64 signed-by=/x] http://one.example/debian/ bookworm main contrib\ndeb-src http://src.example/debian bookworm main\n" +
		"deb http://sec.example/mirror bookworm-security main\ndeb https://docker.example/linux/debian bookworm stable\n")},
	"sources.list.d/a.sources": {Data: []byte("Types: deb deb-src\nURIs: https://two.example/debian cdrom:/x mirror+file:/etc/apt/mirrors/list\nSuites: trixie trixie-updates\nComponents: main\n\n" +
		"Types: deb\nURIs: https://two.example/debian-security\nSuites: trixie-security\nComponents: main\n\n" +
		"Types: deb\nEnabled: no\nURIs: https://off.example/debian\nSuites: trixie\nComponents: main\n")},
	"sources.list.d/b.list":          {Data: []byte("deb http://nodes.example/node_20.x nodistro main\n")},
	"sources.list.d/c.list.disabled": {Data: []byte("deb http://off.example/debian trixie main\n")},
	"mirrors/list":                   {Data: []byte("http://three.example/debian\tpriority:1\n")},
}

func TestMirrors(t *testing.T) {
	for name, c := range map[string]struct {
		env            func(string) string
		site           []string
		main, security string
	}{
		"apt": {env(), nil, "http://one.example/debian https://two.example/debian http://three.example/debian",
			"http://sec.example/mirror https://two.example/debian-security"},
		"environment before apt": {env(debian.EnvMain, "http://env.example/d/ http://env2.example/d"), nil,
			"http://env.example/d http://env2.example/d", "http://sec.example/mirror https://two.example/debian-security"},
		"site before all": {env(debian.EnvMain, "http://env.example/d", debian.EnvSecurity, "http://env.example/s"), []string{"https://site.example/debian/", "https://site.example/debian-security"},
			"https://site.example/debian", "https://site.example/debian-security"},
		"directories": {env(), []string{"file:///srv/my%20mirror/debian/", "file:///srv/debian-security"},
			"file:///srv/my%20mirror/debian", "file:///srv/debian-security"},
	} {
		m, err := debian.Mirrors(c.env, apt, c.site)
		if err != nil || strings.Join(m.Main, " ") != c.main || strings.Join(m.Security, " ") != c.security {
			t.Errorf("%s: got %v, %v", name, m, err)
		}
	}
}

func TestNoMirror(t *testing.T) {
	_, err := debian.Mirrors(env(), fstest.MapFS{}, nil)
	if !errors.Is(err, debian.ErrNoMirror) || !strings.Contains(err.Error(), "hint: ") || !strings.Contains(err.Error(), "security archive") {
		t.Errorf("got %v", err)
	}
	for _, bad := range []string{"ftp://a.example/debian", "a.example/debian", "http:///debian", "http://a.example/debian?x", "file://host/debian", "file:debian", "file:///"} {
		if _, err := debian.Mirrors(env(), apt, []string{bad}); err == nil {
			t.Errorf("%q was taken", bad)
		}
		if _, err := debian.Mirrors(env(debian.EnvMain, bad), apt, nil); err == nil {
			t.Errorf("%q was taken from the environment", bad)
		}
	}
}
