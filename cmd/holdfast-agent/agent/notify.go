package agent

import (
	"net"
	"strings"
)

// notify tells systemd the state of this unit (sd_notify(3)). Without a
// service manager there is nobody to tell.
func (h Host) notify(state ...string) {
	name := h.Getenv("NOTIFY_SOCKET")
	if name == "" {
		return
	}
	if name[0] == '@' {
		name = "\x00" + name[1:] // an abstract socket
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		return
	}
	defer c.Close()
	_, _ = c.Write([]byte(strings.Join(state, "\n")))
}
