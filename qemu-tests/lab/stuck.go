package lab

import (
	"bytes"
	"context"
	"fmt"
	"os"
)

// lostTimer is what Linux says, every 21 seconds, when a processor idles and
// its timer never comes. Two processors under QEMU's emulation can get there:
// the timer's interrupt stays in service in the local APIC and is never
// ended, and no other gets past it. Only a reset helps.
var lostTimer = []byte("Possible timer handling issue on cpu=")

// firmwareSays is what it says whenever it starts what is on a disk.
var firmwareSays = []byte("BdsDxe: starting ")

// stuck reports whether the last boot on the console lost a timer. Once may be
// the host's doing, which had no time for the machine.
func stuck(console []byte) bool {
	if i := bytes.LastIndex(console, firmwareSays); i >= 0 {
		console = console[i:]
	}
	return bytes.Count(console, lostTimer) > 1
}

// Unstick resets an emulated machine that lost a processor's timer, and
// reports whether it did; the console says so. Ask it only of a machine that
// does not answer.
func (vm *VM) Unstick(ctx context.Context) (bool, error) {
	if vm.state.Accel.Name != "tcg" || !vm.Running() {
		return false, nil
	}
	name := vm.path("console.log")
	b, err := os.ReadFile(name)
	if err != nil {
		return false, fmt.Errorf("cannot look at the console: %w", err)
	}
	if !stuck(b) {
		return false, nil
	}
	f, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return false, fmt.Errorf("cannot write to the console's log: %w", err)
	}
	defer f.Close()
	// The firmware's line makes this the beginning of a boot, whatever happens.
	if _, err := fmt.Fprintf(f, "\nlab: the emulation lost a processor's timer; the machine is reset\n%sagain\n", firmwareSays); err != nil {
		return false, fmt.Errorf("cannot write to the console's log: %w", err)
	}
	return true, vm.Reboot(ctx, true)
}
