package update

import (
	"bytes"
	"crypto/sha256"
	"debug/pe"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"

	"holdfast.dev/holdfast/bundles"
	"holdfast.dev/holdfast/bundles/install"
	"holdfast.dev/holdfast/image/uki"
)

// SameKernel reports whether the kernel images of two releases differ in the
// release's number alone, so that one booted as the other would.
func SameKernel(x, y *bundles.Verified) (bool, error) {
	a, err := sections(x)
	if err != nil {
		return false, err
	}
	b, err := sections(y)
	if err != nil {
		return false, err
	}
	return maps.Equal(a, b), nil
}

// numbered are the sections that have the release's number, and how.
var numbered = map[string]string{".cmdline": "holdfast.release=%d ", ".osrel": "IMAGE_VERSION=%d\n"}

// sections are the digests of the sections of a release's kernel image and of its
// header, without its number.
func sections(v *bundles.Verified) (map[string][sha256.Size]byte, error) {
	fail := func(err error) (map[string][sha256.Size]byte, error) {
		return nil, fmt.Errorf("cannot compare the kernel image of release %d: %w", v.Facts().Release, err)
	}
	c, open, err := install.Raw(v, bundles.UKI)
	if err != nil {
		return fail(err)
	}
	r, err := open()
	if err != nil {
		return fail(err)
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, c.Size+1))
	if err != nil {
		return fail(err)
	}
	f, err := pe.NewFile(bytes.NewReader(b))
	if err != nil {
		return fail(err)
	}
	header, err := header(f)
	if err != nil {
		return fail(err)
	}
	out := map[string][sha256.Size]byte{"": sha256.Sum256([]byte(header))}
	for _, s := range f.Sections {
		data, err := s.Data()
		if form, ok := numbered[s.Name]; ok {
			if data, err = uki.ReadSection(b, s.Name); err == nil {
				data = bytes.Replace(data, fmt.Appendf(nil, form, v.Facts().Release), nil, 1)
			}
		}
		if err != nil {
			return fail(err)
		}
		out[s.Name] = sha256.Sum256(data)
	}
	return out, nil
}

// header is what firmware goes by in a PE header, but for sizes and places, which
// hang on how long the number is, and for the signature.
func header(f *pe.File) (string, error) {
	o, ok := f.OptionalHeader.(*pe.OptionalHeader64)
	if !ok {
		return "", errors.New("not a 64-bit PE program")
	}
	var b strings.Builder
	fmt.Fprintln(&b, f.Machine, f.Characteristics, o.AddressOfEntryPoint, o.ImageBase, o.SectionAlignment, o.FileAlignment,
		o.MajorSubsystemVersion, o.MinorSubsystemVersion, o.Subsystem, o.DllCharacteristics, o.NumberOfRvaAndSizes)
	for i, d := range o.DataDirectory {
		if i != pe.IMAGE_DIRECTORY_ENTRY_SECURITY {
			fmt.Fprintln(&b, d.VirtualAddress, d.Size)
		}
	}
	for _, s := range f.Sections {
		fmt.Fprintln(&b, s.Name, s.Characteristics)
	}
	return b.String(), nil
}
