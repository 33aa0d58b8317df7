package charts

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// endless is what a chart whose templates/b.yaml is text gives within b. The
// templates before and after it end at once.
func endless(t *testing.T, b bounds, text string) (map[string]string, error) {
	t.Helper()
	files, err := Unpack(parts(chartYAML + "-- templates/a.yaml --\na: 1\n-- templates/b.yaml --\n" + text + "\n-- templates/c.yaml --\nc: 1\n-- templates/_d.tpl --\n{{- define \"again\" }}{{ end }}\n"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := Load(files)
	if err != nil {
		t.Fatal(err)
	}
	p, err := c.prepare(Release{Name: "site", Namespace: "ns", Kubernetes: "v1.36.3"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p.within(b, functions(1))
}

// A template that does not end is given up, by the time or by the memory that it
// takes, and named.
func TestEndlessTemplate(t *testing.T) {
	for _, k := range []struct {
		what, text, want string
		b                bounds
	}{
		{"time", "{{ range 300000000 }}{{ end }}", "given up after 300ms", bounds{300 * time.Millisecond, 4 << 30}},
		{"memory", "{{ range 3000000 }}" + strings.Repeat("x", 100) + "{{ end }}", "MiB of memory", bounds{time.Minute, 16 << 20}},
	} {
		_, err := endless(t, k.b, k.text)
		if !errors.Is(err, ErrEndless) || !strings.HasPrefix(err.Error(), "template web/templates/b.yaml: ") || !strings.Contains(err.Error(), k.want) || !strings.Contains(err.Error(), "hint: ") {
			t.Errorf("%s: got %v", k.what, err)
		}
	}
	// What tells the name is not seen in what is rendered.
	out, err := endless(t, mostOfPass, "b: {{ .Template.Name }}{{ include \"again\" . }}")
	if err != nil || len(out) != 3 || strings.TrimSpace(out["web/templates/b.yaml"]) != "b: web/templates/b.yaml" {
		t.Errorf("%q, %v", out, err)
	}
}
