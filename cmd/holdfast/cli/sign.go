package cli

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/image"
	"holdfast.dev/holdfast/image/guard"
	"holdfast.dev/holdfast/signing"
	"holdfast.dev/holdfast/signing/authenticode"
)

// siteKeys are the keys in the site's directory.
type siteKeys struct {
	policy  signing.Policy
	release crypto.Signer
	db      crypto.Signer
	dbCert  *x509.Certificate

	enrolment map[string][]byte // put a machine under the site's Secure Boot keys
}

// signingKeys reads the site's keys and holds them against the zone's rules.
func (a *app) signingKeys(in inputs) (siteKeys, error) {
	var k siteKeys
	b, err := os.ReadFile(filepath.Join(a.dir, "trust", "policy.json"))
	if err != nil {
		return k, fmt.Errorf("cannot read the trust policy: %w\nhint: run \"holdfast keys generate\"", err)
	}
	if k.policy, err = signing.ParsePolicy(b); err != nil {
		return k, fmt.Errorf("cannot use trust/policy.json: %w", err)
	}
	var errs []error
	if !in.rules.DevelopmentKeys {
		for _, key := range k.policy.Keys() {
			if key.Development {
				errs = append(errs, fmt.Errorf("%w: zone %s does not allow the development key %s", errPolicy, in.site.Zone, key.Name))
			}
		}
	}
	var e1, e2, e3, e4 error
	k.release, e1 = signing.LoadPrivateKey(filepath.Join(a.dir, "keys", "release.key"))
	k.db, e2 = signing.LoadPrivateKey(filepath.Join(a.dir, "keys", "db.key"))
	k.dbCert, e3 = signing.LoadCertificate(filepath.Join(a.dir, "trust", "db.crt"))
	k.enrolment, e4 = signing.ReadEnrolment(a.dir)
	err = errors.Join(append(errs, e1, e2, e3, e4)...)
	if errors.Is(errors.Join(e1, e2, e3), os.ErrNotExist) { // e4 has its own
		err = fmt.Errorf("%w\nhint: the files of keys/ and trust/ belong together; bring back the missing ones from where they were made, as new ones would be refused by machines that run", err)
	}
	return k, err
}

// bootParts are the signed programs that firmware runs.
type bootParts struct {
	uki, loader, guard store.Content
}

// signBoot is the first pass: Authenticode over the programs that firmware
// checks. Only their digests go to the key.
func (b builder) signBoot(plan image.Plan, o image.OS) (bootParts, error) {
	unsigned, err := image.KernelImage(b.store, plan, o, b.in.site.Release)
	if err != nil {
		return bootParts{}, err
	}
	sign := func(name string, c store.Content) (store.Content, error) {
		pe, err := b.store.ReadFile(c, 256<<20)
		if err != nil {
			return store.Content{}, err
		}
		sum, err := authenticode.Digest(pe)
		if err != nil {
			return store.Content{}, fmt.Errorf("cannot sign %s: %w", name, err)
		}
		sig, err := authenticode.SignDigest(sum, b.keys.dbCert, b.keys.db)
		if err != nil {
			return store.Content{}, fmt.Errorf("cannot sign %s: %w", name, err)
		}
		signed, err := authenticode.Attach(pe, sig)
		if err != nil {
			return store.Content{}, fmt.Errorf("cannot sign %s: %w", name, err)
		}
		if err := authenticode.Verify(signed, []*x509.Certificate{b.keys.dbCert}); err != nil {
			return store.Content{}, fmt.Errorf("cannot sign %s: keys/db.key does not belong to trust/db.crt: %w", name, err)
		}
		return b.store.WriteBytes(signed)
	}
	plain, err := b.store.WriteBytes(guard.EFI())
	if err != nil {
		return bootParts{}, err
	}
	var p bootParts
	var e1, e2, e3 error
	p.uki, e1 = sign("the unified kernel image", unsigned)
	p.loader, e2 = sign("the boot loader", o.Loader)
	p.guard, e3 = sign("the guard", plain)
	return p, errors.Join(e1, e2, e3)
}
