package sandboxes_test

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/sandboxes"
)

type runtime struct {
	cri.UnimplementedRuntimeServiceServer
	there   []*cri.PodSandbox
	removed []string
	refuse  string
}

func (r *runtime) ListPodSandbox(context.Context, *cri.ListPodSandboxRequest) (*cri.ListPodSandboxResponse, error) {
	return &cri.ListPodSandboxResponse{Items: r.there}, nil
}

func (r *runtime) RemovePodSandbox(_ context.Context, q *cri.RemovePodSandboxRequest) (*cri.RemovePodSandboxResponse, error) {
	if q.PodSandboxId == r.refuse {
		return nil, errors.New("cni plugin not initialized")
	}
	r.removed = append(r.removed, q.PodSandboxId)
	return &cri.RemovePodSandboxResponse{}, nil
}

// What ended in a time to come goes; what runs stays, and so does what is of an
// ordinary earlier boot. What cannot be removed keeps no other from it.
func TestForget(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	r := &runtime{refuse: "network"}
	for id, s := range map[string]struct {
		state cri.PodSandboxState
		made  time.Time
	}{
		"early":   {cri.PodSandboxState_SANDBOX_NOTREADY, now.AddDate(2, 0, 0)},
		"network": {cri.PodSandboxState_SANDBOX_NOTREADY, now.AddDate(2, 0, 0)},
		"runs":    {cri.PodSandboxState_SANDBOX_READY, now.AddDate(2, 0, 0)},
		"earlier": {cri.PodSandboxState_SANDBOX_NOTREADY, now.Add(-time.Hour)},
		"step":    {cri.PodSandboxState_SANDBOX_NOTREADY, now.Add(time.Minute)},
	} {
		r.there = append(r.there, &cri.PodSandbox{Id: id, Metadata: &cri.PodSandboxMetadata{Name: id}, State: s.state, CreatedAt: s.made.UnixNano()})
	}
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	cri.RegisterRuntimeServiceServer(s, r)
	go s.Serve(l)
	defer s.Stop()
	n, err := sandboxes.Forget(t.Context(), socket, now)
	if n != 1 || !slices.Equal(r.removed, []string{"early"}) {
		t.Errorf("removed %q, %d", r.removed, n)
	}
	if err == nil || !strings.Contains(err.Error(), "cannot remove pod network of an earlier boot") {
		t.Errorf("the error is %v", err)
	}
}
