package sandboxes_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
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
}

func (r *runtime) ListPodSandbox(context.Context, *cri.ListPodSandboxRequest) (*cri.ListPodSandboxResponse, error) {
	return &cri.ListPodSandboxResponse{Items: r.there}, nil
}

func (r *runtime) RemovePodSandbox(_ context.Context, q *cri.RemovePodSandboxRequest) (*cri.RemovePodSandboxResponse, error) {
	r.removed = append(r.removed, q.PodSandboxId)
	return &cri.RemovePodSandboxResponse{}, nil
}

// What ended in a time to come goes, and gives its address back; what runs stays,
// and so does what is of an ordinary earlier boot.
func TestForget(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	r := &runtime{}
	for id, s := range map[string]struct {
		state cri.PodSandboxState
		made  time.Time
	}{
		"early":   {cri.PodSandboxState_SANDBOX_NOTREADY, now.AddDate(2, 0, 0)},
		"runs":    {cri.PodSandboxState_SANDBOX_READY, now.AddDate(2, 0, 0)},
		"earlier": {cri.PodSandboxState_SANDBOX_NOTREADY, now.Add(-time.Hour)},
		"step":    {cri.PodSandboxState_SANDBOX_NOTREADY, now.Add(time.Minute)},
	} {
		r.there = append(r.there, &cri.PodSandbox{Id: id, State: s.state, CreatedAt: s.made.UnixNano()})
	}
	root := t.TempDir()
	records := map[string]string{
		"var/lib/cni/results/pods-early-eth0": "{}", "var/lib/cni/results/pods-earlier-eth0": "{}",
		"var/lib/cni/networks/pods/10.244.0.2": "early\r\neth0", "var/lib/cni/networks/pods/10.244.0.3": "runs\r\neth0",
		"var/lib/cni/networks/pods/last_reserved_ip.0": "10.244.0.3",
	}
	for name, text := range records {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
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
	n, err := sandboxes.Forget(t.Context(), root, socket, now)
	if err != nil || n != 1 || !slices.Equal(r.removed, []string{"early"}) {
		t.Errorf("removed %q, %d, %v", r.removed, n, err)
	}
	for name := range records {
		_, err := os.Stat(filepath.Join(root, name))
		if gone := name == "var/lib/cni/results/pods-early-eth0" || name == "var/lib/cni/networks/pods/10.244.0.2"; gone != (err != nil) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
