// Package images asks containerd, over the container runtime interface, to
// have the release's images before anything waits for them: what is pulled
// while pods start competes with them for the processor.
package images

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	parallel = 3 // pulls at a time
	oneImage = 20 * time.Minute
)

// Pull makes containerd, at the socket, have every image of refs (by digest),
// and returns when it does. told is called for each that had to be pulled. All
// are tried; the error joins those that could not be had.
func Pull(ctx context.Context, socket string, refs []string, told func(ref string)) error {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("cannot reach containerd: %w", err)
	}
	defer conn.Close()
	client := cri.NewImageServiceClient(conn)
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs []error
		slot = make(chan struct{}, parallel)
	)
	for _, ref := range refs {
		wg.Add(1)
		slot <- struct{}{}
		go func() {
			defer func() { <-slot; wg.Done() }()
			pulled, err := pull(ctx, client, ref)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, fmt.Errorf("cannot pull %s: %w", ref, err))
			} else if pulled {
				told(ref)
			}
		}()
	}
	wg.Wait()
	return errors.Join(errs...)
}

func pull(ctx context.Context, client cri.ImageServiceClient, ref string) (pulled bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, oneImage)
	defer cancel()
	spec := &cri.ImageSpec{Image: ref}
	st, err := client.ImageStatus(ctx, &cri.ImageStatusRequest{Image: spec})
	if err != nil {
		return false, err
	}
	if st.GetImage() != nil {
		return false, nil
	}
	_, err = client.PullImage(ctx, &cri.PullImageRequest{Image: spec})
	return true, err
}
