package cli

import (
	"maps"
	"strings"
	"testing"
)

func TestForwards(t *testing.T) {
	got, err := forwards([]string{"8443:443", "8080:80"})
	if err != nil || !maps.Equal(got, map[int]int{8443: 443, 8080: 80}) {
		t.Error(got, err)
	}
	wrong := []string{"443", ":443", "0:443", "8443:", "8443:70000", "a:b", "-1:443"}
	if _, err = forwards(append(wrong, "8443:443", "8443:80")); err == nil {
		t.Fatal("no fault")
	}
	if n := strings.Count(err.Error(), "cannot forward"); n != len(wrong)+1 {
		t.Errorf("%d faults, want %d: %v", n, len(wrong)+1, err)
	}
}
