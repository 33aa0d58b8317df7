package catalog

import "testing"

func TestEmbedded(t *testing.T) {
	all, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		fs, err := Render(c, placeholders(all))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range fs {
			t.Logf("%s %s\n%s", c.Name, f.Name, f.Data)
		}
	}
}
