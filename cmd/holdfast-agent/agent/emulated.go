package agent

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
)

// emulator is in the name of every processor that QEMU emulates, and of none
// that runs guests itself.
const emulator = "QEMU TCG CPU"

// emulated reports whether this machine's processor is.
func (h Host) emulated() bool {
	b, err := os.ReadFile(h.path("/proc/cpuinfo"))
	return err == nil && bytes.Contains(b, []byte(emulator))
}

// sparingly is what Go programs of the engine find in their environment there.
//
// By default each goroutine that computes for longer than 10 ms is sent a signal,
// so that others get their turn; where the processors are slow and busy that is
// all of them, and the signals are up to a seventh of the API server's time. And
// memory that is collected later is collected less often, which is a tenth.
var sparingly = map[string]string{"GODEBUG": "asyncpreemptoff=1", "GOGC": "400"}

// runAsBatch has services, and with them all that they start, run as batch work:
// a program that wakes up then waits for the one that runs to have had its share.
// An emulator forgets with each switch to another program which code it has
// translated, and so a boot takes a fifth less. The kubelet counts what programs
// use less often.
func (a *agent) runAsBatch(ctx context.Context, services []string) error {
	files := map[string][]byte{}
	conf := []byte("[Service]\nCPUSchedulingPolicy=batch\n")
	for _, k := range slices.Sorted(maps.Keys(sparingly)) {
		conf = fmt.Appendf(conf, "Environment=%s=%s\n", k, sparingly[k])
	}
	for _, s := range services {
		files["/run/systemd/system/"+s+".d/50-emulated.conf"] = conf
	}
	const kubelet = "/run/systemd/system/kubelet.service.d/50-emulated.conf"
	if f, ok := files[kubelet]; ok {
		files[kubelet] = append(slices.Clone(f), "Environment=KUBELET_EXTRA_ARGS=--housekeeping-interval=30s\n"...)
	}
	if err := a.writeFiles(files); err != nil {
		return err
	}
	return a.exec(ctx, "/usr/bin/systemctl", "daemon-reload")
}
