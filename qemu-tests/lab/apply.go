package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// updateSerial is the serial number of the stick that carries updates.
const updateSerial = "update"

// Apply plugs in a stick with the bundle and has the agent take it. It returns
// what the agent says the update changes, as soon as it is admitted; with
// dryRun no update begins. A refusal is the error.
func (vm *VM) Apply(ctx context.Context, bundle string, dryRun bool) (json.RawMessage, error) {
	image := vm.path("stick.erofs")
	in, err := sticks(vm.dir)
	if err != nil {
		return nil, err
	}
	// One of an earlier call may be in.
	if slices.ContainsFunc(in, func(k stick) bool { return k.Serial == updateSerial }) {
		if err := vm.DetachDisk(ctx, updateSerial); err != nil {
			return nil, err
		}
	}
	if err := MakeStick(image, bundle); err != nil {
		return nil, err
	}
	if err := vm.AttachDisk(ctx, image, updateSerial); err != nil {
		return nil, err
	}
	q := question{Op: "apply", Key: fmt.Sprintf("%x", rand.Uint64()), DryRun: dryRun}
	for {
		var a struct {
			Done bool            `json:"done"`
			Plan json.RawMessage `json:"plan"`
		}
		if err := ask(ctx, vm.dir, q, &a); err != nil {
			return nil, err
		}
		if a.Done {
			return a.Plan, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("cannot apply %s: the agent did not get through with it: %w", bundle, ctx.Err())
		case <-time.After(time.Second):
		}
	}
}
