package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
)

// emulator is in the name of every processor that QEMU emulates, and of none
// that runs guests itself.
const emulator = "QEMU TCG CPU"

// calmEmulated has the engine's programs, and with them all pods, run as batch
// work where the processor is emulated: a program that wakes up then waits for
// the one that runs to have had its share. An emulator forgets with each switch
// to another program which code it has translated, and so a boot takes a fifth
// less.
func (a *agent) calmEmulated(ctx context.Context, units []string) error {
	b, err := os.ReadFile(a.host.path("/proc/cpuinfo"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot tell the processor: %w", err)
	}
	if !bytes.Contains(b, []byte(emulator)) {
		return nil
	}
	files := map[string][]byte{}
	for _, u := range units {
		files["/run/systemd/system/"+u+".d/50-emulated.conf"] = []byte("[Service]\nCPUSchedulingPolicy=batch\n")
	}
	if err := a.writeFiles(files); err != nil {
		return err
	}
	return a.exec(ctx, "/usr/bin/systemctl", "daemon-reload")
}
