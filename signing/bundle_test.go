package signing_test

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"testing"

	"holdfast.dev/holdfast/signing"
)

// A bundle that cosign 3.1.3 wrote verifies, and nothing that was made of it.
func TestBundle(t *testing.T) {
	const digest = "sha256:6fa9990e737b9f9ca44f86022c1d74e6e7ef74f74dd23ff2c712fa7b65e13877"
	b, err := os.ReadFile("testdata/cosign3.bundle.json")
	if err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile("testdata/cosign3.pub")
	if err != nil {
		t.Fatal(err)
	}
	key, err := signing.ParsePublicKey(pem)
	if err != nil {
		t.Fatal(err)
	}
	verify := func(b []byte, digest string) error {
		bundle, err := signing.ParseBundle(b)
		if err != nil {
			return err
		}
		return signing.VerifyKey(key, digest, signing.Claims{Bundles: []signing.Bundle{bundle}})
	}
	if err := verify(b, digest); err != nil {
		t.Error(err)
	}
	if err := verify(b, "sha256:"+string(bytes.Repeat([]byte("0"), 64))); !errors.Is(err, signing.ErrUntrusted) {
		t.Errorf("another digest: got %v", err)
	}
	payload := base64.StdEncoding.EncodeToString([]byte(`{"_type":"https://in-toto.io/Statement/v1"`))[:40]
	if !bytes.Contains(b, []byte(payload)) {
		t.Fatal("the payload is not where it was")
	}
	changed := bytes.Replace(b, []byte(payload), []byte("A"+payload[1:]), 1)
	if err := verify(changed, digest); !errors.Is(err, signing.ErrUntrusted) {
		t.Errorf("another statement: got %v", err)
	}
	for _, bad := range []string{"", "{}", `{"dsseEnvelope":{"payloadType":"text/plain"}}`, "[]"} {
		if err := verify([]byte(bad), digest); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// What the key signed about an image, other than the image, is no signature
// of it.
func TestOtherStatements(t *testing.T) {
	key, err := signing.GenerateRelease(nil)
	if err != nil {
		t.Fatal(err)
	}
	digest := "sha256:" + string(bytes.Repeat([]byte("a"), 64))
	subject := `"subject":[{"digest":{"sha256":"` + digest[7:] + `"}}]`
	for name, c := range map[string]struct {
		statement string
		good      bool
	}{
		"a signature":    {`{"_type":"https://in-toto.io/Statement/v1",` + subject + `,"predicateType":"https://sigstore.dev/cosign/sign/v1"}`, true},
		"an attestation": {`{"_type":"https://in-toto.io/Statement/v1",` + subject + `,"predicateType":"https://spdx.dev/Document"}`, false},
		"no subject":     {`{"_type":"https://in-toto.io/Statement/v1","predicateType":"https://sigstore.dev/cosign/sign/v1"}`, false},
		"another type":   {`{"_type":"https://example.com",` + subject + `,"predicateType":"https://sigstore.dev/cosign/sign/v1"}`, false},
	} {
		const kind = "application/vnd.in-toto+json"
		sum := sha256.Sum256(fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(kind), kind, len(c.statement), c.statement))
		sig, err := key.Sign(nil, sum[:], crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		err = signing.VerifyKey(&key.PublicKey, digest, signing.Claims{Bundles: []signing.Bundle{{Payload: []byte(c.statement), Sigs: [][]byte{sig}}}})
		if (err == nil) != c.good {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
