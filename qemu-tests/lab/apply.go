package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
)

// updateSerial is the serial number of the stick that carries updates.
const updateSerial = "update"

// Apply plugs in a stick with the bundle and has the agent take it. It returns
// what the agent says the update changes, as soon as it is admitted; with
// dryRun no update begins. A refusal is the error.
func (vm *VM) Apply(ctx context.Context, bundle string, dryRun bool) (json.RawMessage, error) {
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
	return vm.askJob(ctx, question{Op: "apply", Key: fmt.Sprintf("%x", rand.Uint64()), DryRun: dryRun})
}
