package signing

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

type keyFile struct {
	name    string
	perm    os.FileMode
	content []byte
}

// GenerateSite makes a site's keys: DIR/keys/{release,PK,KEK,db}.key, private,
// and DIR/trust/{release.pub,PK.crt,KEK.crt,db.crt,policy.json}, with PK.auth,
// KEK.auth and db.auth, which put a machine under these keys. The policy trusts
// the release key for zone official alone, as the other zones want two signers.
// Either all files are written or none; if one is there already it is an error
// wrapping os.ErrExist.
func GenerateSite(dir, name string, random io.Reader, now time.Time, development bool) error {
	files, err := siteFiles(name, random, now, development)
	if err != nil {
		return fmt.Errorf("cannot make keys for %s: %w", name, err)
	}
	var errs []error
	for _, f := range files {
		p := filepath.Join(dir, f.name)
		if _, err := os.Lstat(p); err == nil {
			errs = append(errs, fmt.Errorf("%s: %w", p, os.ErrExist))
		} else if !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("cannot make keys for %s: %w\nhint: keep these keys, or move them away yourself: what they signed can be signed again by no other", name, err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "keys"), 0o700); err != nil {
		return fmt.Errorf("cannot make keys for %s: %w", name, err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "trust"), 0o755); err != nil {
		return fmt.Errorf("cannot make keys for %s: %w", name, err)
	}
	if err := writeNew(dir, files); err != nil {
		return fmt.Errorf("cannot make keys for %s: %w", name, err)
	}
	return nil
}

func siteFiles(name string, random io.Reader, now time.Time, development bool) ([]keyFile, error) {
	rel, err := GenerateRelease(random)
	if err != nil {
		return nil, err
	}
	sb, err := GenerateSecureBoot(random, now, name)
	if err != nil {
		return nil, err
	}
	k, err := NewKey(name, &rel.PublicKey, development)
	if err != nil {
		return nil, err
	}
	p, err := NewPolicy([]Key{k}, []Rule{{ZoneOfficial, 1, []string{k.ID}}})
	if err != nil {
		return nil, err
	}
	policy, err := p.Marshal()
	if err != nil {
		return nil, err
	}
	relPEM, err := PrivatePEM(rel)
	if err != nil {
		return nil, err
	}
	files := []keyFile{
		{"keys/release.key", 0o600, relPEM},
		{"trust/release.pub", 0o644, []byte(k.PublicKey)},
		{"trust/policy.json", 0o644, policy},
	}
	enrolment, err := EnrolmentFiles(sb, now)
	if err != nil {
		return nil, err
	}
	for _, b := range []struct {
		name string
		key  BootKey
	}{{"PK", sb.PK}, {"KEK", sb.KEK}, {"db", sb.DB}} {
		priv, err := PrivatePEM(b.key.Key)
		if err != nil {
			return nil, err
		}
		files = append(files,
			keyFile{"keys/" + b.name + ".key", 0o600, priv},
			keyFile{"trust/" + b.name + ".crt", 0o644, b.key.CertPEM()},
			keyFile{"trust/" + b.name + ".auth", 0o644, enrolment[b.name+".auth"]})
	}
	return files, nil
}

// writeNew writes all files or none. A hard link puts each in its place, as it
// never replaces a file that came meanwhile.
func writeNew(dir string, files []keyFile) (err error) {
	var placed []string
	defer func() {
		if err != nil {
			for _, p := range placed {
				err = errors.Join(err, os.Remove(p))
			}
		}
	}()
	temps := make([]string, len(files))
	defer func() {
		for _, t := range temps {
			if t != "" {
				err = errors.Join(err, os.Remove(t))
			}
		}
	}()
	for i, f := range files {
		if temps[i], err = writeTemp(filepath.Dir(filepath.Join(dir, f.name)), f); err != nil {
			return err
		}
	}
	for i, f := range files {
		p := filepath.Join(dir, f.name)
		if err := os.Link(temps[i], p); err != nil {
			return err
		}
		placed = append(placed, p)
	}
	return errors.Join(syncDir(filepath.Join(dir, "keys")), syncDir(filepath.Join(dir, "trust")))
}

func writeTemp(dir string, f keyFile) (string, error) {
	t, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return "", err
	}
	err = t.Chmod(f.perm)
	if err == nil {
		_, err = t.Write(f.content)
	}
	if err == nil {
		err = t.Sync()
	}
	return t.Name(), errors.Join(err, t.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
