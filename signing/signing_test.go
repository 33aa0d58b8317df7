package signing_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/signing"
)

const (
	digest = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	other  = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := signing.GenerateRelease(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func policyKey(t *testing.T, k *ecdsa.PrivateKey, dev bool) signing.Key {
	t.Helper()
	pk, err := signing.NewKey("test", &k.PublicKey, dev)
	if err != nil {
		t.Fatal(err)
	}
	return pk
}

func policy(t *testing.T, zone string, threshold int, keys ...*ecdsa.PrivateKey) signing.Policy {
	t.Helper()
	r := signing.Rule{Zone: zone, Threshold: threshold}
	var ks []signing.Key
	for _, k := range keys {
		pk := policyKey(t, k, false)
		ks = append(ks, pk)
		r.Keys = append(r.Keys, pk.ID)
	}
	p, err := signing.NewPolicy(ks, []signing.Rule{r})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func sign(t *testing.T, d string, k *ecdsa.PrivateKey) signing.Signature {
	t.Helper()
	s, err := signing.Sign(d, "example/demo:1", k, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestVerify(t *testing.T) {
	a, b, c := newKey(t), newKey(t), newKey(t)
	two := policy(t, "secret", 2, a, b)
	flipped := sign(t, digest, b)
	flipped.Payload = bytes.Replace(flipped.Payload, []byte("demo"), []byte("demp"), 1)
	for _, x := range []struct {
		name string
		zone string
		sigs []signing.Signature
		ok   bool
	}{
		{"both", "secret", []signing.Signature{sign(t, digest, b), sign(t, digest, a)}, true},
		{"both and a stranger", "secret", []signing.Signature{sign(t, digest, c), sign(t, digest, b), sign(t, digest, a)}, true},
		{"one", "secret", []signing.Signature{sign(t, digest, a)}, false},
		{"one twice", "secret", []signing.Signature{sign(t, digest, a), sign(t, digest, a)}, false},
		{"one and a stranger", "secret", []signing.Signature{sign(t, digest, a), sign(t, digest, c)}, false},
		{"one for another digest", "secret", []signing.Signature{sign(t, digest, a), sign(t, other, b)}, false},
		{"a changed payload", "secret", []signing.Signature{sign(t, digest, a), flipped}, false},
		{"a zone without rule", "official", []signing.Signature{sign(t, digest, a), sign(t, digest, b)}, false},
		{"none", "secret", nil, false},
		{"too many", "secret", make([]signing.Signature, signing.MaxSignatures+1), false},
	} {
		got, err := signing.Verify(two, x.zone, digest, x.sigs)
		if x.ok && (err != nil || len(got.Keys) != 2) {
			t.Errorf("%s: %v, %v", x.name, got, err)
		}
		if !x.ok && !errors.Is(err, signing.ErrUntrusted) {
			t.Errorf("%s: got %v, want ErrUntrusted", x.name, err)
		}
	}
	if _, err := signing.Verify(signing.Policy{}, "official", digest, nil); !errors.Is(err, signing.ErrUntrusted) {
		t.Errorf("the zero policy: %v", err)
	}
}

func TestSignaturesAreDeterministic(t *testing.T) {
	k := newKey(t)
	a, b := sign(t, digest, k), sign(t, digest, k)
	if !bytes.Equal(a.Sig, b.Sig) || !bytes.Equal(a.Payload, b.Payload) {
		t.Error("two signatures differ")
	}
	const want = `{"critical":{"identity":{"docker-reference":"example/demo:1"},"image":{"docker-manifest-digest":"` + digest + `"},"type":"cosign container image signature"},"optional":null}`
	if string(a.Payload) != want {
		t.Errorf("payload %s", a.Payload)
	}
}

func TestArtifactRoundTrip(t *testing.T) {
	a, b := sign(t, digest, newKey(t)), sign(t, digest, newKey(t))
	art, err := signing.NewArtifact([]signing.Signature{a, b, a})
	if err != nil {
		t.Fatal(err)
	}
	swapped, err := signing.NewArtifact([]signing.Signature{b, a})
	if err != nil || !bytes.Equal(art.Manifest, swapped.Manifest) {
		t.Errorf("the order of signatures matters (%v)", err)
	}
	for i := range art.Manifest {
		bad := bytes.Clone(art.Manifest)
		bad[i] ^= 0x20
		p, err := signing.ParseManifest(bad)
		if err != nil {
			continue
		}
		sigs, err := p.Signatures(art.Config, art.Payloads)
		if err != nil {
			continue
		}
		// A changed signature is well-formed here, but neither a nor b is whole.
		whole := 0
		for _, s := range sigs {
			if bytes.Equal(s.Sig, a.Sig) || bytes.Equal(s.Sig, b.Sig) {
				whole++
			}
		}
		if whole == 2 {
			t.Fatalf("byte %d changed and not noticed", i)
		}
	}
}

func TestPolicyRoundTrip(t *testing.T) {
	a, b := newKey(t), newKey(t)
	p := policy(t, "secret", 2, a, b)
	j, err := p.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	q, err := signing.ParsePolicy(j)
	if err != nil {
		t.Fatal(err)
	}
	if k, err := q.Marshal(); err != nil || !bytes.Equal(j, k) {
		t.Errorf("got %s (%v), want %s", k, err, j)
	}
}

func TestBadPolicies(t *testing.T) {
	k := policyKey(t, newKey(t), true)
	pem := strings.ReplaceAll(k.PublicKey, "\n", `\n`)
	key := `{"id":"` + k.ID + `","name":"x","publicKey":"` + pem + `"}`
	dev := strings.Replace(key, `}`, `,"development":true}`, 1)
	rule := func(zone, threshold, ids string) string {
		return `{"zone":"` + zone + `","threshold":` + threshold + `,"keys":[` + ids + `]}`
	}
	id := `"` + k.ID + `"`
	good := `{"version":1,"keys":[` + key + `],"rules":[` + rule("secret", "1", id) + `]}`
	if _, err := signing.ParsePolicy([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]string{
		"threshold 0":        strings.Replace(good, `"threshold":1`, `"threshold":0`, 1),
		"threshold 2 of 1":   strings.Replace(good, `"threshold":1`, `"threshold":2`, 1),
		"negative threshold": strings.Replace(good, `"threshold":1`, `"threshold":-1`, 1),
		"version 2":          strings.Replace(good, `"version":1`, `"version":2`, 1),
		"unknown field":      strings.Replace(good, `"version":1`, `"version":1,"x":1`, 1),
		"name twice":         strings.Replace(good, `"version":1`, `"version":1,"Version":1`, 1),
		"unknown zone":       strings.Replace(good, `"secret"`, `"private"`, 1),
		"unknown key":        strings.Replace(good, rule("secret", "1", id), rule("secret", "1", `"sha256:00"`), 1),
		"key twice":          strings.Replace(good, key, key+","+key, 1),
		"id twice in a rule": strings.Replace(good, rule("secret", "1", id), rule("secret", "2", id+","+id), 1),
		"rule twice":         strings.Replace(good, rule("secret", "1", id), rule("secret", "1", id)+","+rule("secret", "1", id), 1),
		"wrong id":           strings.ReplaceAll(good, k.ID, digest),
		"development key":    strings.Replace(good, key, dev, 1),
		"not a key":          strings.Replace(good, pem, "x", 1),
		"trailing":           good + "{}",
		"truncated":          good[:len(good)-1],
		"too large":          good + strings.Repeat(" ", 1<<20),
		"empty":              "",
		"deep":               strings.Repeat("[", 1000),
	} {
		if _, err := signing.ParsePolicy([]byte(s)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzParsePolicy(f *testing.F) {
	f.Add([]byte(`{"version":1,"keys":[],"rules":[]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := signing.ParsePolicy(b)
		if err != nil {
			return
		}
		j, err := p.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := signing.ParsePolicy(j); err != nil {
			t.Fatalf("%s: %v", j, err)
		}
	})
}

func FuzzParseManifest(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"config":{},"layers":[{}]}`))
	f.Fuzz(func(t *testing.T, b []byte) { _, _ = signing.ParseManifest(b) })
}

func TestStatement(t *testing.T) {
	a, b := newKey(t), newKey(t)
	p := policy(t, "secret", 2, a, b)
	st := signing.Statement{Name: "demo", Release: 3, Zone: "secret", File: "demo-3.raw", Digest: digest, Size: 1 << 40, Index: other, Pieces: signing.Pieces{Size: 1 << 18, Digest: other}}
	one, err := signing.SignStatement(st, a)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := signing.VerifyStatement(p, "secret", one); !errors.Is(err, signing.ErrUntrusted) {
		t.Errorf("one signature: got %v, want ErrUntrusted", err)
	}
	both, err := signing.AddSignature(one, b)
	if err != nil {
		t.Fatal(err)
	}
	got, acc, err := signing.VerifyStatement(p, "secret", both)
	if err != nil || got != st || len(acc.Keys) != 2 {
		t.Fatalf("got %v, %v, %v", got, acc, err)
	}
	if _, _, err := signing.VerifyStatement(p, "official", both); !errors.Is(err, signing.ErrUntrusted) {
		t.Errorf("another zone: got %v, want ErrUntrusted", err)
	}
	for i := range both {
		bad := bytes.Clone(both)
		bad[i] ^= 1
		if _, _, err := signing.VerifyStatement(p, "secret", bad); err == nil {
			t.Errorf("byte %d changed and not noticed", i)
		}
	}
	for what, change := range map[string]func(*signing.Statement){
		"a path as file name":                   func(s *signing.Statement) { s.File = "../demo-3.raw" },
		"a digest of pieces without their size": func(s *signing.Statement) { s.Pieces.Size = 0 },
		"a size of pieces without their digest": func(s *signing.Statement) { s.Pieces.Digest = "" },
	} {
		bad := st
		change(&bad)
		if _, err := signing.SignStatement(bad, a); err == nil {
			t.Error(what, "was signed")
		}
	}
}

// What is signed is written down in docs/bundle-format.md, and without a digest
// of pieces as it was before there was one.
func TestStatementPayload(t *testing.T) {
	st := signing.Statement{Name: "demo", Release: 3, Zone: "secret", File: "demo-3.raw", Digest: digest, Size: 1 << 40, Index: other}
	old := `{"name":"demo","release":3,"zone":"secret","file":"demo-3.raw","digest":"` + digest + `","size":1099511627776,"index":"` + other + `"`
	for want, pieces := range map[string]signing.Pieces{
		old + "}": {},
		old + `,"pieces":{"size":262144,"digest":"` + other + `"}}`: {Size: 262144, Digest: other},
	} {
		st.Pieces = pieces
		signed, err := signing.SignStatement(st, newKey(t))
		if err != nil {
			t.Fatal(err)
		}
		var e struct{ Payload []byte }
		if err := json.Unmarshal(signed, &e); err != nil || string(e.Payload) != want {
			t.Errorf("%v: %s, want %s", err, e.Payload, want)
		}
	}
}

func TestGenerateSite(t *testing.T) {
	dir := t.TempDir()
	now := time.Unix(1_700_000_000, 0)
	if err := signing.GenerateSite(dir, "demo", rand.Reader, now, true); err != nil {
		t.Fatal(err)
	}
	for name, perm := range map[string]os.FileMode{
		"keys/release.key": 0o600, "keys/PK.key": 0o600, "keys/KEK.key": 0o600, "keys/db.key": 0o600,
		"trust/release.pub": 0o644, "trust/PK.crt": 0o644, "trust/KEK.crt": 0o644, "trust/db.crt": 0o644, "trust/policy.json": 0o644,
	} {
		fi, err := os.Stat(filepath.Join(dir, name))
		if err != nil || fi.Mode().Perm() != perm {
			t.Errorf("%s: %v, %v", name, fi, err)
		}
		if strings.HasPrefix(name, "keys/") {
			if _, err := signing.LoadPrivateKey(filepath.Join(dir, name)); err != nil {
				t.Error(err)
			}
		}
	}
	b, err := os.ReadFile(filepath.Join(dir, "trust/policy.json"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := signing.ParsePolicy(b)
	if err != nil || len(p.Keys()) != 1 || !p.Keys()[0].Development {
		t.Fatalf("policy %s: %v", b, err)
	}
	key, err := signing.LoadPrivateKey(filepath.Join(dir, "keys/release.key"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := signing.Sign(digest, "demo:1", key, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := signing.Verify(p, "official", digest, []signing.Signature{s}); err != nil {
		t.Error(err)
	}
	crt, err := signing.LoadCertificate(filepath.Join(dir, "trust/db.crt"))
	if err != nil || crt.NotAfter.Year() != now.UTC().Year()+20 {
		t.Errorf("db.crt: %v", err)
	}
	if openssl, err := exec.LookPath("openssl"); err != nil {
		t.Log("openssl is not installed: the certificate is not checked with it")
	} else if out, err := exec.Command(openssl, "verify", "-attime", "1700000001", "-CAfile", filepath.Join(dir, "trust/db.crt"), filepath.Join(dir, "trust/db.crt")).CombinedOutput(); err != nil {
		t.Errorf("openssl verify: %s", out)
	}
}

func TestGenerateSiteKeepsWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "keys"), 0o700); err != nil {
		t.Fatal(err)
	}
	old := filepath.Join(dir, "keys/db.key")
	if err := os.WriteFile(old, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := signing.GenerateSite(dir, "demo", rand.Reader, time.Unix(1, 0), false)
	if !errors.Is(err, os.ErrExist) || !strings.Contains(err.Error(), "hint: ") {
		t.Errorf("got %v", err)
	}
	if b, _ := os.ReadFile(old); string(b) != "mine" {
		t.Errorf("the key was replaced: %q", b)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*/*")); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}
