// Package sandboxes has containerd forget the pods of a time to come.
package sandboxes

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// stepBack is how far a time server may set a clock back without consequences.
const stepBack = 5 * time.Minute

// Forget removes the sandboxes that do not run and, by their date, are made
// later than now, with their containers. The kubelet takes the newest of a pod
// for the one that counts: after a clock that was ahead it would look at what
// ended long ago, and make the same container again and again. It returns how
// many it removed. Those with a network of their own need containerd to have the
// configuration of networks; without, they are among the errors.
func Forget(ctx context.Context, socket string, now time.Time) (int, error) {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return 0, fmt.Errorf("cannot reach containerd: %w", err)
	}
	defer conn.Close()
	client := cri.NewRuntimeServiceClient(conn)
	list, err := client.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{
		Filter: &cri.PodSandboxFilter{State: &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_NOTREADY}}})
	if err != nil {
		return 0, fmt.Errorf("cannot list pods of an earlier boot: %w", err)
	}
	n := 0
	var errs []error
	for _, s := range list.Items {
		if s.State != cri.PodSandboxState_SANDBOX_NOTREADY || !time.Unix(0, s.CreatedAt).After(now.Add(stepBack)) {
			continue
		}
		if _, err := client.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: s.Id}); err != nil {
			errs = append(errs, fmt.Errorf("cannot remove pod %s of an earlier boot: %w", s.GetMetadata().GetName(), err))
			continue
		}
		n++
	}
	return n, errors.Join(errs...)
}
