package image

import (
	"regexp"
	"strings"
	"testing"

	"holdfast.dev/holdfast/airgap/store"
)

// Each verdict says why, and one that names a fix-up names one that is there.
func TestVerdicts(t *testing.T) {
	all, err := verdicts()
	if err != nil {
		t.Fatal(err)
	}
	// Parts of the assembly that do a script's work without being a fix-up.
	covers := map[string]bool{"depmod": true, "the UKI": true, "the disk writer": true, "microcode": true}
	for _, f := range fixups {
		if f.why == "" || covers[f.name] {
			t.Errorf("fix-up %q has no reason, or is there twice", f.name)
		}
		covers[f.name] = true
	}
	form := regexp.MustCompile(`^(ignored|covered by ([^:]+)): .+`)
	for pkg, vs := range all {
		for _, v := range vs {
			m := form.FindStringSubmatch(v.Verdict)
			if m == nil || v.Script != "preinst" && v.Script != "postinst" || len(v.Digests) == 0 {
				t.Errorf("%s: %s: %q", pkg, v.Script, v.Verdict)
				continue
			}
			for _, name := range regexp.MustCompile(`, | and `).Split(m[2], -1) {
				if name != "" && !covers[name] {
					t.Errorf("%s: %s: no fix-up %q", pkg, v.Script, name)
				}
			}
			for _, d := range v.Digests {
				if _, err := store.ParseDigest(string(d)); err != nil {
					t.Errorf("%s: %v", pkg, err)
				}
				if got := Verdict(pkg, v.Script, d); got != v.Verdict {
					t.Errorf("%s: %s: got %q", pkg, v.Script, got)
				}
			}
		}
	}
}

func TestVerdictOfTheUnread(t *testing.T) {
	d := store.FromBytes([]byte("rm -rf /"))
	if got := Verdict("bash", "postinst", d) + Verdict("nosuch", "preinst", d); got != "" {
		t.Errorf("a script that nobody has read: %q", got)
	}
	if got := Verdict("bash", "prerm", d); !strings.HasPrefix(got, "ignored: ") {
		t.Errorf("prerm: %q", got)
	}
}
