package update

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"

	"holdfast.dev/holdfast/bundles"
	"holdfast.dev/holdfast/bundles/install"
	"holdfast.dev/holdfast/image/slot"
	"holdfast.dev/holdfast/signing/authenticode"
)

// entries maps each release to its tries; of two entries of one release that a
// torn rename left, the better one counts.
func (m Machine) entries() (map[uint64]install.Tries, error) {
	es, err := slot.Entries(m.path(ESP))
	if err != nil {
		return nil, err
	}
	out := map[uint64]install.Tries{}
	for _, e := range es {
		t := install.Uncounted
		if e.Counted {
			t = install.Tries(e.Left)
		}
		n := uint64(e.Release)
		if old, ok := out[n]; !ok || old != install.Uncounted && (t == install.Uncounted || t > old) {
			out[n] = t
		}
	}
	return out, nil
}

// setTries renames a release's entry; where it has two, the others go.
func (m Machine) setTries(release uint64, t install.Tries) error {
	es, err := slot.Entries(m.path(ESP))
	if err != nil {
		return err
	}
	es = slices.DeleteFunc(es, func(e slot.Entry) bool { return uint64(e.Release) != release })
	if len(es) == 0 {
		return fmt.Errorf("release %d has no boot entry", release)
	}
	want := slot.Entry{Release: int64(release), Counted: t != install.Uncounted, Left: max(0, int(t))}
	if !slices.Contains(es, want) {
		if err := slot.Rename(m.path(ESP), es[0].Name(), want.Name()); err != nil {
			return err
		}
		es = es[1:]
	}
	for _, e := range es {
		if e != want {
			if err := slot.Remove(m.path(ESP), e.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m Machine) removeEntry(release uint64) error {
	es, err := slot.Entries(m.path(ESP))
	if err != nil {
		return err
	}
	errs := []error{slot.Remove(m.path(ESP), slot.TempName(int64(release)))}
	for _, e := range es {
		if uint64(e.Release) == release {
			errs = append(errs, slot.Remove(m.path(ESP), e.Name()))
		}
	}
	return errors.Join(errs...)
}

// release finds a release on the node.
func (m Machine) release(r install.Ref) (*bundles.Verified, error) {
	all, err := m.Releases()
	for _, v := range all {
		if install.RefOf(v) == r {
			return v, nil
		}
	}
	return nil, errors.Join(fmt.Errorf("cannot find release %s on this node", r), err)
}

func (m Machine) writeEntry(ctx context.Context, r install.Ref) error {
	v, err := m.release(r)
	if err != nil {
		return err
	}
	src, err := unpacked(v, bundles.UKI)
	if err != nil {
		return err
	}
	b, err := os.ReadFile(m.path(DBCert))
	if err != nil {
		return fmt.Errorf("cannot read the certificate of boot programs: %w", err)
	}
	p, _ := pem.Decode(b)
	if p == nil {
		return fmt.Errorf("cannot read the certificate of boot programs: %s is not PEM", DBCert)
	}
	cert, err := x509.ParseCertificate(p.Bytes)
	if err != nil {
		return fmt.Errorf("cannot read the certificate of boot programs: %w", err)
	}
	_, err = slot.WriteEntry(ctx, m.path(ESP), int64(r.Release), src, func(b []byte) error {
		return authenticode.Verify(b, []*x509.Certificate{cert})
	})
	return err
}
