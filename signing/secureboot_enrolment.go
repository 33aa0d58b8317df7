package signing

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"holdfast.dev/holdfast/signing/authenticode"
)

// EnrolmentDir is where systemd-boot finds on the EFI system partition the keys
// that it enrols by itself in virtual machines whose firmware is in setup mode.
const EnrolmentDir = "loader/keys/auto"

// MoreDir is the directory, below trust/, of further certificates for db: of
// those whose programs, such as option ROMs, a site decided to run.
const MoreDir = "db.d"

const maxMore = 16

const enrolmentHint = "\nhint: run \"holdfast keys enrolment\" where keys/PK.key and keys/KEK.key are"

// EnrolmentFiles makes the signed updates that put a machine under the keys of
// sb, as PK.auth, KEK.auth and db.auth: PK signs PK and KEK, KEK signs db. The
// private key of db is not used. db holds the certificates more as well. Each
// entry's owner is a GUID cut from the digest of PK's certificate. The time must
// be later than that of earlier updates; equal input gives equal bytes.
func EnrolmentFiles(sb SecureBoot, at time.Time, more ...*x509.Certificate) (map[string][]byte, error) {
	if sb.PK.Key == nil || sb.KEK.Key == nil || sb.PK.Cert == nil || sb.KEK.Cert == nil || sb.DB.Cert == nil {
		return nil, errors.New("internal error: enrolment wants the keys of PK and KEK and all certificates")
	}
	files := map[string][]byte{}
	var errs []error
	for _, u := range updates(sb.PK.Cert, sb.KEK.Cert, sb.DB.Cert, more) {
		key := sb.PK.Key
		if u.signer == sb.KEK.Cert {
			key = sb.KEK.Key
		}
		b, err := authenticode.SignVariable(u.variable, u.data, at, u.signer, key)
		errs = append(errs, err)
		files[string(u.variable)+".auth"] = b
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("cannot make enrolment files: %w", err)
	}
	return files, nil
}

type update struct {
	variable authenticode.Variable
	data     []byte
	signer   *x509.Certificate
}

func updates(pk, kek, db *x509.Certificate, more []*x509.Certificate) []update {
	owner := ownerOf(pk)
	return []update{
		{authenticode.PK, authenticode.SignatureLists(owner, pk), pk},
		{authenticode.KEK, authenticode.SignatureLists(owner, kek), pk},
		{authenticode.DB, authenticode.SignatureLists(owner, append([]*x509.Certificate{db}, more...)...), kek},
	}
}

// ownerOf is a GUID of version 8 (RFC 9562), which leaves its bits to us.
func ownerOf(pk *x509.Certificate) authenticode.GUID {
	sum := sha256.Sum256(pk.Raw)
	g := authenticode.GUID(sum[:16])
	g[7] = g[7]&0x0f | 0x80
	g[8] = g[8]&0x3f | 0x80
	return g
}

// ReadEnrolment reads DIR/trust/{PK,KEK,db}.auth and sees to it that they are
// signed and hold the certificates in DIR/trust, those in DIR/trust/db.d too.
// Beside them it returns PK.cer, KEK.cer and db.cer, the same certificates in
// the form that the setup of a machine's firmware reads. Keys of the result are
// file names, for EnrolmentDir. Its error has the remedy; it wraps
// os.ErrNotExist when a file is missing.
func ReadEnrolment(dir string) (map[string][]byte, error) {
	var certs [3]*x509.Certificate
	var errs [4]error
	for i, n := range []string{"PK", "KEK", "db"} {
		certs[i], errs[i] = LoadCertificate(filepath.Join(dir, "trust", n+".crt"))
	}
	more, err := moreCertificates(dir)
	errs[3] = err
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("cannot read enrolment files: %w", err)
	}
	files := map[string][]byte{"PK.cer": certs[0].Raw, "KEK.cer": certs[1].Raw, "db.cer": certs[2].Raw}
	var faults []error
	for _, u := range updates(certs[0], certs[1], certs[2], more) {
		name := string(u.variable) + ".auth"
		b, err := readKeyFile(filepath.Join(dir, "trust", name))
		if err != nil {
			faults = append(faults, err)
			continue
		}
		data, _, err := authenticode.VerifyVariable(u.variable, b, u.signer)
		if err == nil && !bytes.Equal(data, u.data) {
			err = errors.New("it does not hold the certificates that are there now")
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("trust/%s: %w", name, err))
			continue
		}
		files[name] = b
	}
	if err := errors.Join(faults...); err != nil {
		return nil, fmt.Errorf("cannot read enrolment files: %w"+enrolmentHint, err)
	}
	return files, nil
}

// WriteEnrolment makes DIR/trust/{PK,KEK,db}.auth anew, from DIR/keys/{PK,KEK}.key,
// the certificates in DIR/trust and those in DIR/trust/db.d. Files that are
// there are replaced; when it fails, none is.
func WriteEnrolment(dir string, now time.Time) error {
	if err := writeEnrolment(dir, now); err != nil {
		return fmt.Errorf("cannot write enrolment files: %w", err)
	}
	return nil
}

func writeEnrolment(dir string, now time.Time) (err error) {
	var sb SecureBoot
	var errs []error
	for _, k := range []struct {
		name string
		to   *BootKey
		key  bool
	}{{"PK", &sb.PK, true}, {"KEK", &sb.KEK, true}, {"db", &sb.DB, false}} {
		var err error
		k.to.Cert, err = LoadCertificate(filepath.Join(dir, "trust", k.name+".crt"))
		errs = append(errs, err)
		if !k.key {
			continue
		}
		key, err := LoadPrivateKey(filepath.Join(dir, "keys", k.name+".key"))
		rsaKey, ok := key.(*rsa.PrivateKey)
		if err == nil && !ok {
			err = fmt.Errorf("keys/%s.key is no RSA key", k.name)
		}
		errs = append(errs, err)
		k.to.Key = rsaKey
	}
	more, err := moreCertificates(dir)
	if err := errors.Join(append(errs, err)...); err != nil {
		return err
	}
	files, err := EnrolmentFiles(sb, now, more...)
	if err != nil {
		return err
	}
	return replace(filepath.Join(dir, "trust"), files)
}

// moreCertificates are those in trust/db.d, in the order of their names.
func moreCertificates(dir string) ([]*x509.Certificate, error) {
	entries, err := os.ReadDir(filepath.Join(dir, "trust", MoreDir))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".crt") {
			names = append(names, filepath.Join(dir, "trust", MoreDir, e.Name()))
		}
	}
	if len(names) > maxMore {
		return nil, fmt.Errorf("%d certificates in trust/%s, %d are allowed", len(names), MoreDir, maxMore)
	}
	var certs []*x509.Certificate
	var errs []error
	for _, n := range names {
		c, err := LoadCertificate(n)
		certs, errs = append(certs, c), append(errs, err)
	}
	return certs, errors.Join(errs...)
}

// replace writes all files beside their places before it renames the first.
func replace(dir string, files map[string][]byte) (err error) {
	temps := map[string]string{}
	defer func() {
		for _, t := range temps {
			err = errors.Join(err, os.Remove(t))
		}
	}()
	for name, b := range files {
		t, err := writeTemp(dir, keyFile{name, 0o644, b})
		if t != "" {
			temps[name] = t
		}
		if err != nil {
			return err
		}
	}
	for name := range files {
		if err := os.Rename(temps[name], filepath.Join(dir, name)); err != nil {
			return err
		}
		delete(temps, name)
	}
	return syncDir(dir)
}
