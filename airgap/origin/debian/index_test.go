package debian_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/ulikunitz/xz"

	"holdfast.dev/holdfast/airgap/origin/debian"
	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/image/deb"
)

var now = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func at(d time.Duration) *packet.Config {
	return &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, Time: func() time.Time { return now.Add(d) }}
}

func newKey(t *testing.T) *openpgp.Entity {
	t.Helper()
	e, err := openpgp.NewEntity("Test", "", "test@example.com", at(-1000*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// suite is the files of a mirror with the package "a" in the suite trixie.
func suite(t *testing.T, key *openpgp.Entity, codename string) map[string]string {
	t.Helper()
	var packed bytes.Buffer
	w, err := xz.NewWriter(&packed)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(w, "Package: a\nVersion: 1\nArchitecture: amd64\nFilename: pool/a.deb\nSize: 1\nSHA256: %064d\n", 0)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	sum := store.FromBytes(packed.Bytes()).Hex()
	var signed bytes.Buffer
	s, err := clearsign.Encode(&signed, key.PrivateKey, at(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(s, "Suite: stable\nCodename: %s\nDate: Thu, 19 Nov 2026 10:00:00 UTC\nValid-Until: Thu, 26 Nov 2026 10:00:00 UTC\nAcquire-By-Hash: yes\nSHA256:\n %s %d main/binary-amd64/Packages.xz\n",
		codename, sum, packed.Len())
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return map[string]string{
		"/debian/dists/trixie/InRelease":                                signed.String() + "\n",
		"/debian/dists/trixie/main/binary-amd64/by-hash/SHA256/" + sum:  packed.String(),
		"/debian/dists/trixie/main/binary-amd64/Packages.xz":            packed.String(),
		"/debian/dists/trixie/main/binary-arm64/Packages.xz/not-listed": "",
	}
}

func serve(t *testing.T, files map[string]string) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, ok := files[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(body))
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

func client(keys openpgp.EntityList, urls ...string) *debian.Client {
	c := &debian.Client{Keyring: keys, Now: now, Backoff: time.Millisecond}
	for _, u := range urls {
		c.Mirror.Main = append(c.Mirror.Main, u+"/debian")
	}
	return c
}

var trixie = debian.Archive{Name: debian.Main, Suite: "trixie", Components: []string{"main"}, Arch: "amd64"}

func TestIndex(t *testing.T) {
	key := newKey(t)
	dead := httptest.NewServer(nil)
	dead.Close()
	url := serve(t, suite(t, key, "trixie"))
	r, err := debian.Index(context.Background(), client(openpgp.EntityList{key}, dead.URL, url), trixie)
	if err != nil {
		t.Fatal(err)
	}
	p, ok := r.Index.Get("a")
	if !ok || p.Archive != debian.Main || r.URL != url+"/debian" || r.Release.Codename != "trixie" || r.InReleaseContent.Digest != store.FromBytes(r.InRelease) {
		t.Errorf("got %+v", r)
	}
}

func TestIndexRefuses(t *testing.T) {
	key := newKey(t)
	good := suite(t, key, "trixie")
	with := func(part, body string) map[string]string {
		m := map[string]string{}
		for k, v := range good {
			if strings.Contains(k, part) {
				v = body
			}
			m[k] = v
		}
		return m
	}
	for name, c := range map[string]struct {
		files map[string]string
		keys  openpgp.EntityList
		now   time.Time
		want  error
		says  string
	}{
		"another key":    {good, openpgp.EntityList{newKey(t)}, now, deb.ErrUntrusted, "InRelease"},
		"Debian's keys":  {good, nil, now, deb.ErrUntrusted, "hint: "},
		"expired":        {good, openpgp.EntityList{key}, now.AddDate(0, 1, 0), deb.ErrExpired, "2026-11-26"},
		"another suite":  {suite(t, key, "sid"), openpgp.EntityList{key}, now, nil, "it is of sid (stable), not of trixie"},
		"unsigned":       {with("InRelease", "Suite: stable\n"), openpgp.EntityList{key}, now, deb.ErrUntrusted, ""},
		"altered index":  {with("binary-amd64", "x"), openpgp.EntityList{key}, now, store.ErrMismatch, "Packages.xz"},
		"too long index": {with("binary-amd64", strings.Repeat("x", 1000)), openpgp.EntityList{key}, now, nil, "over the"},
		"nothing there":  {nil, openpgp.EntityList{key}, now, nil, "404"},
	} {
		cl := client(c.keys, serve(t, c.files))
		cl.Now = c.now
		_, err := debian.Index(context.Background(), cl, trixie)
		if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v, want %v and %q", name, err, c.want, c.says)
		} else if !strings.Contains(err.Error(), cl.Mirror.Main[0]) {
			t.Errorf("%s: the mirror is not named: %v", name, err)
		}
	}
	a := trixie
	a.Components = []string{"contrib"}
	if _, err := debian.Index(context.Background(), client(openpgp.EntityList{key}, serve(t, good)), a); err == nil || !strings.Contains(err.Error(), "contrib/binary-amd64") {
		t.Errorf("a component that is not there: got %v", err)
	}
}
