package authenticode_test

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"holdfast.dev/holdfast/signing/authenticode"
)

var updateTime = time.Date(2025, 10, 31, 23, 59, 58, 123, time.FixedZone("", 3600))

func TestVariable(t *testing.T) {
	kek, other := newSigner(t, "KEK", 2048, nil), newSigner(t, "other", 2048, nil)
	lists := authenticode.SignatureLists(authenticode.GUID{1}, kek.cert, other.cert)
	b, err := authenticode.SignVariable(authenticode.DB, lists, updateTime, kek.cert, kek.key)
	if err != nil {
		t.Fatal(err)
	}
	again, err := authenticode.SignVariable(authenticode.DB, lists, updateTime, kek.cert, kek.key)
	if err != nil || !bytes.Equal(b, again) {
		t.Errorf("signing twice gives different bytes (%v)", err)
	}
	data, at, err := authenticode.VerifyVariable(authenticode.DB, b, kek.cert)
	if err != nil || !bytes.Equal(data, lists) || !at.Equal(updateTime.Truncate(time.Second)) {
		t.Errorf("%d bytes of %v: %v", len(data), at, err)
	}
	for name, err := range map[string]error{
		"another signer":   second(authenticode.VerifyVariable(authenticode.DB, b, other.cert)),
		"another variable": second(authenticode.VerifyVariable(authenticode.KEK, b, kek.cert)),
		"cut":              second(authenticode.VerifyVariable(authenticode.DB, b[:39], kek.cert)),
		"empty":            second(authenticode.VerifyVariable(authenticode.DB, nil, kek.cert)),
		"unknown variable": second(authenticode.VerifyVariable("dbx", b, kek.cert)),
	} {
		if !errors.Is(err, authenticode.ErrUntrusted) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	for i := range b {
		b[i] ^= 0x10
		if _, _, err := authenticode.VerifyVariable(authenticode.DB, b, kek.cert); err == nil {
			t.Errorf("a change at %d went unseen", i)
		}
		b[i] ^= 0x10
	}
}

func second(_ []byte, _ time.Time, err error) error { return err }

func TestRefusesVariables(t *testing.T) {
	a, b := newSigner(t, "a", 2048, nil), newSigner(t, "b", 2048, nil)
	for name, f := range map[string]func() ([]byte, error){
		"unknown":         func() ([]byte, error) { return authenticode.SignVariable("dbx", nil, updateTime, a.cert, a.key) },
		"key of another":  func() ([]byte, error) { return authenticode.SignVariable("db", nil, updateTime, a.cert, b.key) },
		"year of no time": func() ([]byte, error) { return authenticode.SignVariable("db", nil, time.Time{}, a.cert, a.key) },
		"too large": func() ([]byte, error) {
			return authenticode.SignVariable("db", make([]byte, 1<<20), updateTime, a.cert, a.key)
		},
	} {
		if _, err := f(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestEfitools compares with what the tools of others make and read.
func TestEfitools(t *testing.T) {
	signTool, e1 := exec.LookPath("sign-efi-sig-list")
	listTool, e2 := exec.LookPath("cert-to-efi-sig-list")
	if e1 != nil || e2 != nil {
		t.Skip("no efitools on this host")
	}
	a := newSigner(t, "a", 2048, nil)
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	lists := authenticode.SignatureLists(authenticode.GUID{0x33, 0x22, 0x11, 0}, a.cert)
	for name, b := range map[string][]byte{
		"crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}),
		"key": pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(a.key)}),
		"esl": lists,
	} {
		if err := os.WriteFile(file(name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{
		{listTool, "-g", "00112233-0000-0000-0000-000000000000", file("crt"), file("theirs.esl")},
		{signTool, "-t", "2025-10-31 22:59:58", "-k", file("key"), "-c", file("crt"), "PK", file("esl"), file("theirs.auth")},
	} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env = append(os.Environ(), "TZ=UTC")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", args[0], err, out)
		}
	}
	auth, err := authenticode.SignVariable(authenticode.PK, lists, updateTime, a.cert, a.key)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]byte{"theirs.esl": lists, "theirs.auth": auth} {
		if got, err := os.ReadFile(file(name)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what is made here (%v)", name, err)
		}
	}
}

func FuzzVerifyVariable(f *testing.F) {
	a := newSigner(f, "a", 2048, nil)
	b, err := authenticode.SignVariable(authenticode.PK, []byte("data"), updateTime, a.cert, a.key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if data, _, err := authenticode.VerifyVariable(authenticode.PK, b, a.cert); err == nil && string(data) != "data" {
			t.Errorf("took %q", data)
		}
	})
}
