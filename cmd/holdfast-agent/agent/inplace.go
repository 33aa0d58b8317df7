package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"holdfast.dev/holdfast/bundles"
	"holdfast.dev/holdfast/bundles/install"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/atomicfile"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/containerd"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/node"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/update"
)

// takenOverFile names the release that took over from the one that was booted.
// A reboot forgets it.
const takenOverFile = "/run/holdfast/taken-over.json"

// takenOver is that file's content.
type takenOver struct {
	Release uint64        `json:"release"`
	At      time.Duration `json:"at"` // since power-on
}

// readTakenOver gives the zero value where the booted release runs.
func (h Host) readTakenOver() (takenOver, error) {
	var t takenOver
	b, err := os.ReadFile(h.path(takenOverFile))
	if errors.Is(err, os.ErrNotExist) {
		return t, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &t)
	}
	if err != nil {
		return takenOver{}, fmt.Errorf("cannot tell which release runs: %w", err)
	}
	return t, nil
}

func (h Host) takeOver(to install.Ref) error {
	b, err := json.Marshal(takenOver{to.Release, h.uptime()})
	if err == nil {
		err = os.MkdirAll(filepath.Dir(h.path(takenOverFile)), 0o755)
	}
	if err == nil {
		err = atomicfile.Write(h.path(takenOverFile), append(b, '\n'), 0o644)
	}
	return err
}

// errTakenOver ends `run` too: the next one finds the new release.
var errTakenOver = fmt.Errorf("%w, as the new release", errRestart)

// answerTime is how long whoever asked for an update in place has to hear that
// it has begun: they ask every second.
const answerTime = 3 * time.Second

// takeBundle has a bundle applied, and the agent started over where that needs it.
func (a *agent) takeBundle(ctx context.Context, u *updates, q bundleRequest, restart context.CancelCauseFunc, begun func(install.Plan)) error {
	err := a.applyBundle(ctx, u, q, begun)
	switch {
	case errors.Is(err, errTakenOver):
		_ = a.host.Sleep(ctx, answerTime)
		restart(errRestart)
		return nil
	case errors.Is(err, errRestart):
		restart(errRestart)
	}
	return err
}

// whyReboot says why the machine has to reboot into a release that has the
// running one's root; "" if it need not.
func (a *agent) whyReboot(u *updates, to *bundles.Verified) (string, error) {
	same, err := update.SameKernel(u.running.Verified, to)
	if err != nil {
		return "", err
	}
	if !same {
		return "the kernel's image or its command line change", nil
	}
	b, err := to.NodeJSON()
	if err != nil {
		return "", err
	}
	c, err := node.Parse(b)
	if err != nil {
		return "", err
	}
	name := a.Get().Node.Name
	from := u.running.config
	i := slices.IndexFunc(from.Nodes, func(n node.Node) bool { return n.Name == name })
	if i < 0 {
		return "this machine is not known as a node yet", nil
	}
	return readAtStart(from, c, from.Nodes[i])
}

// readAtStart says what differs between two releases' configurations, for node
// n, that machine or engine read only when they start; "" if nothing does.
func readAtStart(from, to node.Config, n node.Node) (string, error) {
	from.Services.Journal, from.Services.Monitoring = to.Services.Journal, to.Services.Monitoring // the agent's own
	switch {
	case from.Domain != to.Domain || !reflect.DeepEqual(from.Nodes, to.Nodes):
		return "the site's nodes or its domain change", nil
	case from.LabAccess != to.LabAccess:
		return "access from a lab changes", nil
	case !reflect.DeepEqual(from.Engine, to.Engine):
		return "the engine changes", nil
	case !reflect.DeepEqual(from.Services, to.Services):
		return "the API server is to know other services of the site", nil
	case from.Engine.Name == node.NoEngine:
		return "", nil
	}
	e, err := engineOf(from.Engine.Name)
	if err != nil {
		return "", err
	}
	before, err1 := e.files(from, n)
	after, err2 := e.files(to, n)
	if err := errors.Join(err1, err2); err != nil {
		return "", err
	}
	names := slices.Sorted(maps.Keys(before))
	for name := range after {
		if _, ok := before[name]; !ok {
			names = append(names, name)
		}
	}
	for _, name := range names {
		// containerd looks these up at each pull.
		if !strings.HasPrefix(name, containerd.CertsDir+"/") && !bytes.Equal(before[name], after[name]) {
			return fmt.Sprintf("%s changes, which the engine reads when it starts", name), nil
		}
	}
	return "", nil
}
