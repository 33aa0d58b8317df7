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
			if m == nil || v.Script != "preinst" && v.Script != "postinst" || len(v.Digests)+len(v.Texts) == 0 {
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
				if got := Verdict(pkg, "1", v.Script, d); got != v.Verdict {
					t.Errorf("%s: %s: got %q", pkg, v.Script, got)
				}
			}
		}
	}
}

func TestVerdictOfTheUnread(t *testing.T) {
	d := store.FromBytes([]byte("rm -rf /"))
	if got := Verdict("bash", "1", "postinst", d) + Verdict("nosuch", "1", "preinst", d); got != "" {
		t.Errorf("a script that nobody has read: %q", got)
	}
	if got := Verdict("bash", "1", "prerm", d); !strings.HasPrefix(got, "ignored: ") {
		t.Errorf("prerm: %q", got)
	}
}

// The kernel's scripts have its version in them; the digests are those of
// Debian's packages.
func TestVerdictOfTheNextKernel(t *testing.T) {
	for _, c := range []struct {
		pkg, version, script string
		digest               store.Digest
	}{
		{"linux-image-6.12.117+deb13-cloud-amd64", "6.12.117-1", "preinst", "sha256:e79fc93f17e4d68926793195a0935bb2b32475f9bad05f6e87dd6180e4d317b1"},
		{"linux-image-6.12.117+deb13-amd64", "6.12.117-1", "postinst", "sha256:e6d4c88bdf7468675f72fae2c9e433d67dda717b939f81a4d851b9b45d5ec09b"},
		{"linux-image-amd64", "6.12.117-1", "preinst", "sha256:d34710d789ca5a78c7b647a39e231236fd37342983c7465c8067be1515fa78ed"},
		{"linux-image-6.12.118+deb13-cloud-amd64", "6.12.118-1", "postinst", "sha256:1c01d93003d370fe7132a136ce46c4ed311fcd7259783c9770c2efb6bce621dd"},
		{"linux-image-cloud-amd64", "6.12.118-1", "postinst", "sha256:c71674da4878849baf5f40a6671c040731386a51e9e3e49109990053685f7b2f"},
	} {
		if got := Verdict(c.pkg, c.version, c.script, c.digest); got == "" {
			t.Errorf("%s=%s: no verdict on %s", c.pkg, c.version, c.script)
		}
		if got := Verdict(c.pkg, "6.12.116-1", c.script, c.digest); got != "" {
			t.Errorf("%s: the script of another version: %q", c.pkg, got)
		}
	}
}
