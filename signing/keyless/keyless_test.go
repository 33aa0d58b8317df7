package keyless_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/qemu-tests/sigstore"
	"holdfast.dev/holdfast/signing"
	"holdfast.dev/holdfast/signing/keyless"
)

const (
	workflow = "https://git.example/team/app/.github/workflows/release.yml@refs/tags/v1.2.3"
	issuer   = "https://token.example"
	image    = "sha256:6fa9990e737b9f9ca44f86022c1d74e6e7ef74f74dd23ff2c712fa7b65e13877"
	other    = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
)

func newSigstore(t testing.TB) *sigstore.Sigstore {
	t.Helper()
	s, err := sigstore.New()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// attached is what by left beside an image in cosign's form up to version 2,
// after change had its way with it.
func attached(t testing.TB, s *sigstore.Sigstore, by sigstore.Signing, digest string, change func(map[string]string)) signing.Claims {
	t.Helper()
	payload, err := signing.Payload(digest, "registry.example/team/app", nil)
	if err != nil {
		t.Fatal(err)
	}
	annotations, err := s.Attach(by, payload)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(annotations)
	}
	return read(t, annotations, payload)
}

func read(t testing.TB, annotations map[string]string, payload []byte) signing.Claims {
	t.Helper()
	text := ""
	for k, v := range annotations {
		text += fmt.Sprintf("%s%q:%q", map[bool]string{true: ","}[text != ""], k, v)
	}
	sigs, err := signing.ParseAttached(fmt.Appendf(nil, `{"layers":[{"mediaType":"application/vnd.dev.cosign.simplesigning.v1+json","digest":%q,"size":%d,"annotations":{%s}}]}`, image, len(payload), text))
	if err != nil || len(sigs) != 1 {
		t.Fatal(sigs, err)
	}
	return signing.Claims{Signatures: []signing.Claim{{Signature: signing.Signature{Payload: payload, Sig: sigs[0].Sig}, Keyless: sigs[0].Keyless}}}
}

// bundled is the same in the form of version 3.
func bundled(t testing.TB, s *sigstore.Sigstore, by sigstore.Signing, statement string) signing.Claims {
	t.Helper()
	b, err := s.Bundle(by, []byte(statement))
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := signing.ParseBundle(b)
	if err != nil {
		t.Fatal(err)
	}
	return signing.Claims{Bundles: []signing.Bundle{bundle}}
}

func statement(digest, predicate string) string {
	return fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":%q}}],"predicateType":%q,"predicate":{}}`, strings.TrimPrefix(digest, "sha256:"), predicate)
}

const isSigned = "https://sigstore.dev/cosign/sign/v1"

func TestKeyless(t *testing.T) {
	s, stranger := newSigstore(t), newSigstore(t)
	exact := signing.Identity{Subject: workflow, Issuer: issuer}
	by := sigstore.Signing{Identity: workflow, Issuer: issuer}
	person := sigstore.Signing{Identity: "ada@example.org", Issuer: issuer}
	second := attached(t, s, by, other, nil).Signatures[0]
	for _, c := range []struct {
		name   string
		id     signing.Identity
		claims signing.Claims
		want   string // of the error; none if it is good
	}{
		{"as it stands", exact, attached(t, s, by, image, nil), ""},
		{"a pattern", signing.Identity{Pattern: `https://git\.example/team/app/.*@refs/tags/v1\..*`, Issuer: issuer}, attached(t, s, by, image, nil), ""},
		{"an address", signing.Identity{Subject: "ada@example.org", Issuer: issuer}, attached(t, s, person, image, nil), ""},
		{"in a bundle", exact, bundled(t, s, by, statement(image, isSigned)), ""},
		{"one of several", exact, signing.Claims{Signatures: []signing.Claim{attached(t, stranger, by, image, nil).Signatures[0], attached(t, s, by, image, nil).Signatures[0]}}, ""},

		{"nothing", exact, signing.Claims{}, "none of the 0 signatures"},
		{"somebody else", exact, attached(t, s, person, image, nil), `got "ada@example.org"`},
		{"somebody else in a bundle", exact, bundled(t, s, person, statement(image, isSigned)), `got "ada@example.org"`},
		{"a pattern that fits a part", signing.Identity{Pattern: `git\.example/team/app`, Issuer: issuer}, attached(t, s, by, image, nil), "to match regex"},
		{"a pattern that closes its group", signing.Identity{Pattern: `x|y`, Issuer: issuer}, attached(t, s, sigstore.Signing{Identity: "x@evil.example", Issuer: issuer}, image, nil), "to match regex"},
		{"another provider", exact, attached(t, s, sigstore.Signing{Identity: workflow, Issuer: "https://evil.example"}, image, nil), `got "https://evil.example"`},
		{"another Sigstore", exact, attached(t, stranger, by, image, nil), "not enough verified log entries"},
		{"another Sigstore's bundle", exact, bundled(t, stranger, by, statement(image, isSigned)), "not enough verified log entries"},
		{"another image", exact, attached(t, s, by, other, nil), "over something else"},
		{"another image in a bundle", exact, bundled(t, s, by, statement(other, isSigned)), "digest"},
		{"an attestation", exact, bundled(t, s, by, statement(image, "https://slsa.dev/provenance/v1")), "no signature of it"},
		{"a certificate that no log saw", exact, attached(t, s, sigstore.Signing{Identity: workflow, Issuer: issuer, Hidden: true}, image, nil), "signed certificate timestamp"},
		{"after the certificate ended", exact, attached(t, s, sigstore.Signing{Identity: workflow, Issuer: issuer, Late: 11 * time.Minute}, image, nil), "certificate validity"},
		{"before it began", exact, attached(t, s, sigstore.Signing{Identity: workflow, Issuer: issuer, Late: -time.Minute}, image, nil), "certificate validity"},
		{"by a key", exact, attached(t, s, by, image, func(a map[string]string) { delete(a, "dev.sigstore.cosign/certificate") }), "no certificate"},
		{"in no log", exact, attached(t, s, by, image, func(a map[string]string) { delete(a, "dev.sigstore.cosign/bundle") }), "no entry of a transparency log"},
		{"the log entry of another", exact, attached(t, s, by, image, func(a map[string]string) { a["dev.sigstore.cosign/bundle"] = string(second.Log) }), "does not match"},
		{"the certificate of another", exact, attached(t, s, by, image, func(a map[string]string) { a["dev.sigstore.cosign/certificate"] = string(second.Certificate) }), "does not match"},
		{"a log entry that is none", exact, attached(t, s, by, image, func(a map[string]string) { a["dev.sigstore.cosign/bundle"] = "x" }), "cannot read its log entry"},
		{"a later time than the log signed", exact, attached(t, s, by, image, func(a map[string]string) {
			a["dev.sigstore.cosign/bundle"] = strings.Replace(a["dev.sigstore.cosign/bundle"], `"integratedTime":1`, `"integratedTime":2`, 1)
		}), "not enough verified log entries"},
		{"what a terminal takes for orders", exact, attached(t, s, sigstore.Signing{Identity: workflow, Issuer: "https://evil.example/\x1b[2J"}, image, nil), `\x1b[2J`},
	} {
		t.Run(c.name, func(t *testing.T) {
			v, err := keyless.New(c.id, s.TrustedRoot())
			if err != nil {
				t.Fatal(err)
			}
			err = v.Verify(image, c.claims)
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (!errors.Is(err, signing.ErrUntrusted) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\x1b")):
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// A root that is damaged, and an identity that says too little, are refused.
func TestNew(t *testing.T) {
	good := signing.Identity{Subject: workflow, Issuer: issuer}
	if _, err := keyless.New(good, keyless.PublicRoot); err != nil {
		t.Errorf("the public root: %v", err)
	}
	for _, c := range []struct {
		id   signing.Identity
		root string
		want string
	}{
		{good, "{}", "trusted root"},
		{good, "x", "trusted root"},
		{good, strings.Repeat(" ", keyless.MaxRoot+1), "more than"},
		{signing.Identity{Subject: workflow}, string(keyless.PublicRoot), "issuer"},
		{signing.Identity{Issuer: issuer}, string(keyless.PublicRoot), "one of identity"},
		{signing.Identity{Subject: "a", Pattern: "b", Issuer: issuer}, string(keyless.PublicRoot), "one of identity"},
		{signing.Identity{Pattern: "a)|(?:b", Issuer: issuer}, string(keyless.PublicRoot), "identityPattern"},
	} {
		if _, err := keyless.New(c.id, []byte(c.root)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: got %v, want %q", c.id, err, c.want)
		}
	}
}

// Whatever lies beside an image: a byte that is another makes no signature of
// what is none, and none of it brings the program down.
func FuzzVerify(f *testing.F) {
	s := newSigstore(f)
	v, err := keyless.New(signing.Identity{Subject: workflow, Issuer: issuer}, s.TrustedRoot())
	if err != nil {
		f.Fatal(err)
	}
	payload, err := signing.Payload(other, "registry.example/team/app", nil)
	if err != nil {
		f.Fatal(err)
	}
	annotations, err := s.Attach(sigstore.Signing{Identity: workflow, Issuer: issuer}, payload)
	if err != nil {
		f.Fatal(err)
	}
	bundle, err := s.Bundle(sigstore.Signing{Identity: workflow, Issuer: issuer}, []byte(statement(other, isSigned)))
	if err != nil {
		f.Fatal(err)
	}
	claims := read(f, annotations, payload)
	sig := claims.Signatures[0].Sig
	if err := v.Verify(other, claims); err != nil {
		f.Fatal(err)
	}
	f.Add(annotations["dev.sigstore.cosign/certificate"], annotations["dev.sigstore.cosign/bundle"], "", payload, bundle)
	f.Fuzz(func(t *testing.T, certificate, log, timestamp string, payload, whole []byte) {
		c := signing.Claims{Signatures: []signing.Claim{{
			Signature: signing.Signature{Payload: payload, Sig: sig},
			Keyless:   signing.Keyless{Certificate: []byte(certificate), Log: []byte(log), Timestamp: []byte(timestamp)},
		}}}
		if b, err := signing.ParseBundle(whole); err == nil {
			c.Bundles = append(c.Bundles, b)
		}
		if v.Verify(image, c) == nil {
			t.Error("a signature of another image counts for this one")
		}
	})
}
