package slot

import "testing"

// The examples of the specification, oldest first, and names of entries.
func TestCompareVersions(t *testing.T) {
	for _, order := range [][]string{
		{"~1", "", "^1", "1"},
		{"11~beta1", "11", "11a"},
		{"122.1", "123~rc1-1", "123", "123-a", "123-a.1", "123-1", "123-1.1", "123^post1", "123.a-1", "123.1-1", "123a-1", "124-1"},
		{"holdfa~1.efi", "holdfast-1.efi", "holdfast-1+2-1.efi", "holdfast-1+3.efi", "holdfast-2.efi", "holdfast-10.efi"},
	} {
		for i, a := range order {
			for j, b := range order {
				got := compareVersions(a, b)
				if want := i - j; got < 0 != (want < 0) || got > 0 != (want > 0) {
					t.Errorf("%q and %q: %d", a, b, got)
				}
			}
		}
	}
	for _, same := range [][2]string{{"1.0", "1.00"}, {"a_1", "a1"}, {"", "_"}} {
		if c := compareVersions(same[0], same[1]); c != 0 {
			t.Errorf("%q and %q: %d", same[0], same[1], c)
		}
	}
}

func FuzzCompareVersions(f *testing.F) {
	f.Add("holdfast-1+3.efi", "holdfast-10.efi")
	f.Add("~^-.a1", "1a.-^~")
	f.Fuzz(func(t *testing.T, a, b string) {
		if compareVersions(a, b) != -compareVersions(b, a) || compareVersions(a, a) != 0 {
			t.Errorf("%q and %q", a, b)
		}
	})
}
