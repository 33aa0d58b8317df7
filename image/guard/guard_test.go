package guard_test

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"debug/pe"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"holdfast.dev/holdfast/image/guard"
	"holdfast.dev/holdfast/signing"
	"holdfast.dev/holdfast/signing/authenticode"
)

// The embedded code is that of the source.
func TestCodeIsOfSource(t *testing.T) {
	for _, tool := range []string{"as", "objcopy"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("no binutils on this host")
		}
	}
	dir := t.TempDir()
	object, code := filepath.Join(dir, "guard.o"), filepath.Join(dir, "guard.bin")
	for _, args := range [][]string{
		{"as", "--64", "-o", object, "guard.s.txt"},
		{"objcopy", "-O", "binary", "-j", ".text", object, code},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", args[0], err, out)
		}
	}
	got, err := os.ReadFile(code)
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("guard.bin")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("guard.bin is not what guard.s.txt gives: assemble it as the source's first lines say")
	}
}

func TestProgram(t *testing.T) {
	b := guard.EFI()
	f, err := pe.NewFile(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	opt, ok := f.OptionalHeader.(*pe.OptionalHeader64)
	if !ok || f.Machine != pe.IMAGE_FILE_MACHINE_AMD64 || opt.Subsystem != pe.IMAGE_SUBSYSTEM_EFI_APPLICATION {
		t.Fatal("not an EFI application for x86-64")
	}
	if opt.DllCharacteristics&pe.IMAGE_DLLCHARACTERISTICS_NX_COMPAT == 0 {
		t.Error("not NX_COMPAT")
	}
	end := opt.SizeOfHeaders
	for _, s := range f.Sections {
		const w, x = pe.IMAGE_SCN_MEM_WRITE, pe.IMAGE_SCN_MEM_EXECUTE
		if s.Characteristics&w != 0 || (s.Characteristics&x != 0) != (s.Name == ".text") {
			t.Errorf("section %s has protection %#x", s.Name, s.Characteristics)
		}
		if s.VirtualAddress%0x1000 != 0 || s.Offset != end || s.VirtualAddress+s.VirtualSize > opt.SizeOfImage {
			t.Errorf("section %s is misplaced", s.Name)
		}
		end = s.Offset + s.Size
	}
	if int(end) != len(b) || f.Sections[0].VirtualSize > 1024 {
		t.Errorf("%d bytes, sections end at %d, %d of code", len(b), end, f.Sections[0].VirtualSize)
	}
	for _, text := range []string{guard.Message, `\` + strings.ReplaceAll(guard.LoaderPath, "/", `\`)} {
		if u := utf16Bytes(text); bytes.Count(b, u) != 1 {
			t.Errorf("%q is not in the program", text)
		}
	}
}

func utf16Bytes(s string) (b []byte) {
	for _, u := range utf16.Encode([]rune(s)) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}

func TestCanBeSigned(t *testing.T) {
	sb, err := signing.GenerateSecureBoot(rand.Reader, time.Unix(1_700_000_000, 0), "test")
	if err != nil {
		t.Fatal(err)
	}
	signed, err := authenticode.Sign(guard.EFI(), sb.DB.Cert, sb.DB.Key)
	if err != nil {
		t.Fatal(err)
	}
	if err := authenticode.Verify(signed, []*x509.Certificate{sb.DB.Cert}); err != nil {
		t.Error(err)
	}
	sbverify, err := exec.LookPath("sbverify")
	if err != nil {
		t.Skip("no sbverify on this host")
	}
	cert, program := filepath.Join(t.TempDir(), "db.crt"), filepath.Join(t.TempDir(), "guard.efi")
	if err := os.WriteFile(cert, sb.DB.CertPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, signed, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(sbverify, "--cert", cert, program).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "Signature verification OK") || strings.Contains(string(out), "warning") {
		t.Errorf("%v\n%s", err, out)
	}
}
