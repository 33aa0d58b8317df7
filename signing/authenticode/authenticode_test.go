package authenticode_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/signing/authenticode"
)

// program makes a PE program of one section, and tail bytes behind it.
func program(tail int) []byte {
	b := make([]byte, 0x600+tail)
	le := binary.LittleEndian
	copy(b, "MZ")
	le.PutUint32(b[60:], 64)
	copy(b[64:], "PE\x00\x00")
	coff := b[68:]
	le.PutUint16(coff[0:], 0x8664)
	le.PutUint16(coff[2:], 1)
	le.PutUint16(coff[16:], 240)
	le.PutUint16(coff[18:], 0x22e)
	opt := b[88:]
	le.PutUint16(opt[0:], 0x20b)
	le.PutUint32(opt[16:], 0x1000)
	le.PutUint32(opt[32:], 0x1000)
	le.PutUint32(opt[36:], 0x200)
	le.PutUint32(opt[56:], 0x2000)
	le.PutUint32(opt[60:], 0x400)
	le.PutUint16(opt[68:], 10)
	le.PutUint32(opt[108:], 16)
	h := b[88+240:]
	copy(h, ".text")
	le.PutUint32(h[8:], 0x200)
	le.PutUint32(h[12:], 0x1000)
	le.PutUint32(h[16:], 0x200)
	le.PutUint32(h[20:], 0x400)
	le.PutUint32(h[36:], 0x60000020)
	copy(b[0x400:], "program")
	for i := range tail {
		b[0x600+i] = byte(i + 1)
	}
	return b
}

type signer struct {
	cert *x509.Certificate
	key  *rsa.PrivateKey
}

func newSigner(t testing.TB, name string, bits int, issuer *signer) signer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Unix(1_600_000_000, 0), NotAfter: time.Unix(1_600_000_001, 0),
		BasicConstraintsValid: true, IsCA: issuer == nil,
	}
	parent, parentKey := tmpl, key
	if issuer != nil {
		parent, parentKey = issuer.cert, issuer.key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, parentKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return signer{cert, key}
}

func roots(s ...signer) (out []*x509.Certificate) {
	for _, x := range s {
		out = append(out, x.cert)
	}
	return out
}

func TestSignAndVerify(t *testing.T) {
	a, b := newSigner(t, "a", 2048, nil), newSigner(t, "b", 2048, nil)
	leaf := newSigner(t, "leaf", 2048, &a)
	for _, tail := range []int{0, 1, 7, 8, 100} {
		pe := program(tail)
		signed, err := authenticode.Sign(pe, a.cert, a.key)
		if err != nil {
			t.Fatal(err)
		}
		again, err := authenticode.Sign(pe, a.cert, a.key)
		if err != nil || !bytes.Equal(signed, again) {
			t.Errorf("tail %d: signing twice gives different bytes (%v)", tail, err)
		}
		before, _ := authenticode.Digest(pe)
		after, err := authenticode.Digest(signed)
		if err != nil || before != after {
			t.Errorf("tail %d: the digest changed with the signature (%v)", tail, err)
		}
		if err := authenticode.Verify(signed, roots(b, a)); err != nil {
			t.Errorf("tail %d: %v", tail, err)
		}
		for name, err := range map[string]error{
			"other root": authenticode.Verify(signed, roots(b)),
			"no root":    authenticode.Verify(signed, nil),
			"unsigned":   authenticode.Verify(pe, roots(a)),
		} {
			if !errors.Is(err, authenticode.ErrUntrusted) {
				t.Errorf("tail %d, %s: got %v", tail, name, err)
			}
		}
		if _, err := authenticode.Attach(signed, nil); !errors.Is(err, authenticode.ErrSigned) {
			t.Errorf("tail %d: a second signature was attached", tail)
		}
	}
	signed, err := authenticode.Sign(program(0), leaf.cert, leaf.key)
	if err != nil {
		t.Fatal(err)
	}
	if err := authenticode.Verify(signed, roots(a)); err != nil {
		t.Errorf("signed by a certificate that the root issued: %v", err)
	}
}

// Every bit that matters is covered, so no single change may go unseen, but
// for the checksum and what UEFI leaves out as well.
func TestVerifySeesEveryChange(t *testing.T) {
	a := newSigner(t, "a", 2048, nil)
	signed, err := authenticode.Sign(program(3), a.cert, a.key)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 0x604 {
		if i >= 88+64 && i < 88+68 {
			continue
		}
		signed[i] ^= 0x10
		if authenticode.Verify(signed, roots(a)) == nil {
			t.Errorf("a change at %d went unseen", i)
		}
		signed[i] ^= 0x10
	}
	if err := authenticode.Verify(append(signed, 0), roots(a)); err == nil {
		t.Error("a byte behind the signature went unseen")
	}
}

func TestRefusesKeys(t *testing.T) {
	good, weak := newSigner(t, "good", 2048, nil), newSigner(t, "weak", 1024, nil)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		cert *x509.Certificate
		key  crypto.Signer
	}{"weak": {weak.cert, weak.key}, "of another certificate": {weak.cert, good.key}, "elliptic": {good.cert, ec}} {
		if _, err := authenticode.SignDigest([32]byte{}, c.cert, c.key); err == nil {
			t.Errorf("a key that is %s: no error", name)
		}
	}
}

func TestRefusesPrograms(t *testing.T) {
	put := func(at int, v uint32) []byte {
		b := program(8)
		binary.LittleEndian.PutUint32(b[at:], v)
		return b
	}
	for name, b := range map[string][]byte{
		"empty":                 nil,
		"text":                  bytes.Repeat([]byte("hello "), 100),
		"cut":                   program(0)[:0x500],
		"header outside":        put(60, 1<<31),
		"header at its own":     put(60, 0),
		"32 bits":               put(88, 0x10b),
		"no directories":        put(88+108, 4),
		"headers too large":     put(88+60, 1<<20),
		"section outside":       put(88+240+16, 1<<30),
		"gap before section":    put(88+240+20, 0x500),
		"section over headers":  put(88+240+20, 0x200),
		"signature in sections": put(88+112+32, 0x400),
		"signature of no size":  put(88+112+32, 0x600),
	} {
		if _, err := authenticode.Digest(b); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// realPrograms are what is to be found of boot programs on this host, or in
// the directory that HOLDFAST_EFI_PROGRAMS names.
func realPrograms(t *testing.T) []string {
	var out []string
	for _, dir := range []string{"/usr/lib/systemd/boot/efi", os.Getenv("HOLDFAST_EFI_PROGRAMS")} {
		if dir == "" {
			continue
		}
		names, err := filepath.Glob(filepath.Join(dir, "*.efi*"))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, names...)
	}
	return out
}

func TestSbverify(t *testing.T) {
	sbverify, err := exec.LookPath("sbverify")
	if err != nil {
		t.Skip("no sbverify on this host")
	}
	a, b := newSigner(t, "a", 2048, nil), newSigner(t, "b", 2048, nil)
	dir := t.TempDir()
	certs := map[string]string{}
	for name, s := range map[string]signer{"a": a, "b": b} {
		certs[name] = filepath.Join(dir, name+".pem")
		if err := os.WriteFile(certs[name], pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.cert.Raw}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	programs := map[string][]byte{"small": program(0), "small with a tail": program(5)}
	for _, name := range realPrograms(t) {
		if programs[name], err = os.ReadFile(name); err != nil {
			t.Fatal(err)
		}
	}
	for name, pe := range programs {
		signed, err := authenticode.Sign(pe, a.cert, a.key)
		if errors.Is(err, authenticode.ErrSigned) {
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		file := filepath.Join(dir, "signed.efi")
		if err := os.WriteFile(file, signed, 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(sbverify, "--cert", certs["a"], file).CombinedOutput(); err != nil || !strings.Contains(string(out), "Signature verification OK") {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		if out, err := exec.Command(sbverify, "--cert", certs["b"], file).CombinedOutput(); err == nil {
			t.Errorf("%s: accepted with another certificate\n%s", name, out)
		}
	}
}

// TestSbsign verifies what another program signed.
func TestSbsign(t *testing.T) {
	sbsign, err := exec.LookPath("sbsign")
	if err != nil {
		t.Skip("no sbsign on this host")
	}
	a := newSigner(t, "a", 2048, nil)
	dir := t.TempDir()
	file := func(name string, b []byte) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	cert := file("cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))
	key := file("key.pem", pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(a.key)}))
	out := filepath.Join(dir, "out.efi")
	if text, err := exec.Command(sbsign, "--key", key, "--cert", cert, "--output", out, file("in.efi", program(0))).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	signed, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if err := authenticode.Verify(signed, roots(a)); err != nil {
		t.Error(err)
	}
}

func FuzzVerify(f *testing.F) {
	a, other := newSigner(f, "a", 2048, nil), newSigner(f, "other", 2048, nil)
	signed, err := authenticode.Sign(program(3), other.cert, other.key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(signed)
	f.Add(program(0))
	f.Fuzz(func(t *testing.T, pe []byte) {
		if authenticode.Verify(pe, roots(a)) == nil {
			t.Error("accepted what was not signed")
		}
		if out, err := authenticode.Attach(pe, []byte("x")); err == nil {
			x, err1 := authenticode.Digest(pe)
			y, err2 := authenticode.Digest(out)
			if x != y || err1 != nil || err2 != nil {
				t.Errorf("the digest changed: %v, %v", err1, err2)
			}
		}
	})
}
