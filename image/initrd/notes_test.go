package initrd

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// note is one ELF note with that JSON.
func note(owner string, kind uint32, json string) []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, uint32(len(owner)+1))
	b = le.AppendUint32(b, uint32(len(json)+1))
	b = le.AppendUint32(b, kind)
	for _, s := range []string{owner, json} {
		b = append(append(b, s...), 0)
		b = append(b, bytes.Repeat([]byte{0}, (4-len(b)%4)%4)...)
	}
	return b
}

func TestParseNotes(t *testing.T) {
	b := bytes.Join([][]byte{
		note("GNU", 3, "xyz"),
		note("FDO", 0x407c0c0a, `[{"feature":"xz","priority":"recommended","soname":["liblzma.so.5"]}]`),
		note("FDO", 0x407c0c0a, `[{"feature":"bpf","priority":"suggested","soname":["libbpf.so.1","libbpf.so.0"]}]`),
	}, nil)
	got, err := parseNotes(b, binary.LittleEndian)
	if err != nil || len(got) != 2 || got[0].Feature != "xz" || got[1].Soname[1] != "libbpf.so.0" {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := parseNotes(b[:len(b)-8], binary.LittleEndian); err == nil {
		t.Error("a cut note is no error")
	}
	if _, err := parseNotes(note("FDO", 0x407c0c0a, `[{`), binary.LittleEndian); err == nil {
		t.Error("broken JSON is no error")
	}
}

func FuzzParseNotes(f *testing.F) {
	f.Add(note("FDO", 0x407c0c0a, `[{"feature":"xz"}]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = parseNotes(b, binary.LittleEndian)
	})
}
