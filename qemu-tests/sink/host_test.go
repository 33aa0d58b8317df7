package sink

import (
	"fmt"
	"net"
	"os"
	"testing"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mkdir(dir string) error { return os.Mkdir(dir, 0o755) }

// dialIn plugs into net.sock of dir, whatever the length of its name.
func dialIn(t *testing.T, dir string) net.Conn {
	t.Helper()
	d, err := os.Open(dir)
	must(t, err)
	defer d.Close()
	c, err := net.Dial("unix", fmt.Sprintf("/proc/self/fd/%d/net.sock", d.Fd()))
	must(t, err)
	return c
}
