package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
)

// updateSerial is the serial number of the stick that carries updates.
const updateSerial = "update"

// ApplyOptions say how a bundle is taken.
type ApplyOptions struct {
	DryRun bool // no update begins
	Reboot bool // also where only manifests and images change
}

// Apply plugs in a stick with the bundle and has the agent take it. It returns
// what the agent says the update changes, as soon as it is admitted. A refusal
// is the error.
func (vm *VM) Apply(ctx context.Context, bundle string, o ApplyOptions) (json.RawMessage, error) {
	image := vm.path("stick.erofs")
	// One of an earlier call may be in.
	if err := vm.pullOut(ctx, updateSerial); err != nil {
		return nil, err
	}
	if err := MakeStick(image, bundle); err != nil {
		return nil, err
	}
	if err := vm.AttachDisk(ctx, image, updateSerial); err != nil {
		return nil, err
	}
	return vm.askJob(ctx, question{Op: "apply", Key: fmt.Sprintf("%x", rand.Uint64()), DryRun: o.DryRun, Reboot: o.Reboot})
}
