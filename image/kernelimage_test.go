package image

import (
	"strings"
	"testing"
)

// Whatever the distribution's version is, the loader compares the release.
func TestEntryRelease(t *testing.T) {
	got := entryRelease("ID=debian\nVERSION_ID=\"13\"\n\n", 12)
	if !strings.HasSuffix(got, "\nIMAGE_ID=holdfast\nIMAGE_VERSION=12\n") || !strings.HasPrefix(got, "ID=debian\n") {
		t.Errorf("got %q", got)
	}
}
