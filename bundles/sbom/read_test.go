package sbom_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"holdfast.dev/holdfast/bundles/sbom"
)

func TestReadGivesWhatWasWritten(t *testing.T) {
	var b bytes.Buffer
	if err := sbom.Write(&b, example()); err != nil {
		t.Fatal(err)
	}
	list, err := sbom.Read(&b)
	if err != nil || len(list) != 6 {
		t.Fatalf("%d packages, %v", len(list), err)
	}
	i := slices.IndexFunc(list, func(l sbom.Listed) bool { return l.Name == "libc6" })
	if l := list[i]; l.Version != "2.41-12" || l.SHA256 != strings.Repeat("ab", 32) || l.Purpose != "LIBRARY" || len(l.In) != 3 {
		t.Errorf("got %+v, want it in the release and in two images", l)
	}
}

func TestReadRefuses(t *testing.T) {
	for _, bad := range []string{"", "[]", "{", `{"packages":{}}`, `{"packages":[1]}`, `{"packages":[{"SPDXID":"a"},{"SPDXID":"a"}]}`, `{"relationships":[[]]}`} {
		if l, err := sbom.Read(strings.NewReader(bad)); err == nil {
			t.Errorf("%q: got %v", bad, l)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"packages":[{"SPDXID":"a","checksums":[{"algorithm":"SHA256"}]}],"relationships":[{"spdxElementId":"a","relationshipType":"CONTAINS","relatedSpdxElement":"a"}]}`))
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = sbom.Read(bytes.NewReader(b)) })
}
