package deb_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"holdfast.dev/holdfast/image/deb"
)

var now = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

const releaseText = `Origin: Debian
Suite: stable
Codename: trixie
Version: 13.7
Date: Thu, 19 Nov 2026 10:00:00 UTC
Valid-Until: Thu, 26 Nov 2026 10:00:00 UTC
Acquire-By-Hash: yes
SHA256:
 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 0 main/binary-amd64/Packages.xz
`

func newKey(t testing.TB) *openpgp.Entity {
	t.Helper()
	e, err := openpgp.NewEntity("Test", "", "test@example.com", &packet.Config{
		Algorithm: packet.PubKeyAlgoEdDSA, Time: func() time.Time { return now.AddDate(0, 0, -30) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func sign(t testing.TB, key *openpgp.Entity, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := clearsign.Encode(&b, key.PrivateKey, &packet.Config{Time: func() time.Time { return now.AddDate(0, 0, -1) }})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return append(b.Bytes(), '\n')
}

func TestVerifyInRelease(t *testing.T) {
	key := newKey(t)
	r, err := deb.VerifyInRelease(sign(t, key, releaseText), openpgp.EntityList{key}, now)
	if err != nil {
		t.Fatal(err)
	}
	if r.Codename != "trixie" || !r.ByHash || r.ValidUntil.Day() != 26 || len(r.Files) != 1 || len(r.Signer) != 40 {
		t.Errorf("got %+v", r)
	}
}

func TestVerifyInReleaseRefuses(t *testing.T) {
	key := newKey(t)
	keys := openpgp.EntityList{key}
	good := sign(t, key, releaseText)
	for name, c := range map[string]struct {
		b    []byte
		keys openpgp.EntityList
		now  time.Time
		want error
	}{
		"another key":          {good, openpgp.EntityList{newKey(t)}, now, deb.ErrUntrusted},
		"no key":               {good, nil, now, deb.ErrUntrusted},
		"unsigned":             {[]byte(releaseText), keys, now, deb.ErrUntrusted},
		"altered":              {bytes.Replace(good, []byte("trixie"), []byte("trixia"), 1), keys, now, deb.ErrUntrusted},
		"text before":          {append([]byte("Suite: x\n"), good...), keys, now, deb.ErrUntrusted},
		"text after":           {append(bytes.Clone(good), "Suite: x\n"...), keys, now, deb.ErrUntrusted},
		"two messages":         {append(bytes.Clone(good), good...), keys, now, deb.ErrUntrusted},
		"cut short":            {good[:len(good)-40], keys, now, deb.ErrUntrusted},
		"expired":              {good, keys, now.AddDate(0, 0, 7), deb.ErrExpired},
		"signed in the future": {good, keys, now.AddDate(0, 0, -3), deb.ErrUntrusted},
	} {
		if _, err := deb.VerifyInRelease(c.b, c.keys, c.now); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
	_, err := deb.VerifyInRelease(good, keys, now.AddDate(0, 0, 7))
	if !strings.Contains(err.Error(), "valid until 2026-11-26 10:00:00") {
		t.Errorf("the message names no date: %v", err)
	}
	for _, bad := range []string{"Suite: x\n", strings.Replace(releaseText, " 0 main", " -1 main", 1), strings.Replace(releaseText, "Date: T", "Date: X", 1), strings.Replace(releaseText, "e3b0", "e3", 1)} {
		if _, err := deb.VerifyInRelease(sign(t, key, bad), keys, now); err == nil {
			t.Errorf("taken:\n%s", bad)
		}
	}
}

func TestArchiveKeys(t *testing.T) {
	keys, err := deb.ArchiveKeys()
	if err != nil || len(keys) != 6 {
		t.Fatalf("got %d keys, %v", len(keys), err)
	}
	if _, err := deb.ReadKeyring([]byte("no keys")); err == nil {
		t.Error("a text was taken for a keyring")
	}
}
