package signing_test

import (
	"testing"

	"holdfast.dev/holdfast/signing"
)

// Signatures in a registry are anybody's bytes.
func FuzzAttached(f *testing.F) {
	f.Add([]byte(`{"layers":[{"mediaType":"application/vnd.dev.cosign.simplesigning.v1+json","digest":"sha256:x","annotations":{"dev.cosignproject.cosign/signature":"MA=="}}]}`))
	f.Add([]byte(`{"dsseEnvelope":{"payload":"e30=","payloadType":"application/vnd.in-toto+json","signatures":[{"sig":"MA=="}]}}`))
	key, err := signing.GenerateRelease(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if attached, err := signing.ParseAttached(b); err == nil && len(attached) > signing.MaxSignatures {
			t.Errorf("%d signatures", len(attached))
		}
		if bundle, err := signing.ParseBundle(b); err == nil {
			if signing.VerifyKey(&key.PublicKey, "sha256:x", signing.Claims{Bundles: []signing.Bundle{bundle}}) == nil {
				t.Error("it verifies")
			}
		}
	})
}
