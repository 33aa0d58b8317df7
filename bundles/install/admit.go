package install

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"

	"holdfast.dev/holdfast/bundles"
	"holdfast.dev/holdfast/signing"
)

// Node is what Admit asks of the node.
type Node struct {
	Policy    signing.Policy // of the running root
	Confirmed Ref
	Have      []string // layouts, the seed store and the one on /var

	// Bytes.
	VarFree    int64
	Datastore  int64 // what a copy of the engine's datastore takes
	SlotRoot   int64 // the idle slot's partitions
	SlotVerity int64
	ESPFree    int64 // once the entries other than the running release's are gone
}

const (
	varReserve = 256 << 20 // what an update leaves free on /var: logs, the datastore's growth
	espReserve = 1 << 20
	blobRound  = 4 << 10 // a file takes whole blocks
)

// Admit says whether the candidate may follow the running release on the node,
// and if not, every reason. A release that failed before may come again.
func Admit(n Node, running, candidate *bundles.Verified) error {
	run, f := running.Facts(), candidate.Facts()
	var errs []error
	no := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if f.Name != run.Name {
		no("it is of site %s, this node of site %s", f.Name, run.Name)
	}
	if f.Zone != run.Zone {
		no("it is for zone %s, this node is in zone %s", f.Zone, run.Zone)
	}
	if _, err := signing.Verify(n.Policy, run.Zone, string(candidate.Index().Digest), candidate.Signatures()); err != nil {
		errs = append(errs, err)
	}
	to, repair := RefOf(candidate), false
	if repair = to.is(n.Confirmed) && run.Release < f.Release; !repair {
		if highest := max(run.Release, n.Confirmed.Release); f.Release <= highest {
			no("its number %d is not higher than %d, which this node runs or has confirmed: numbers only grow\nhint: to go back to older contents, build them under a higher number", f.Release, highest)
		}
	}
	errs = append(errs, admitEngine(running, candidate))
	shared := f.RootHash == run.RootHash
	missing, err := Missing(candidate, n.Have, shared)
	errs = append(errs, err)
	need := int64(varReserve) + n.Datastore
	for _, c := range missing {
		need += (c.Size + blobRound - 1) / blobRound * blobRound
	}
	if n.VarFree < need {
		no("/var has %d bytes free; blobs, a copy of the datastore and a reserve of %d need %d", n.VarFree, int64(varReserve), need)
	}
	if !shared {
		fits := func(title string, room int64) {
			if c, _, err := Raw(candidate, title); err != nil {
				errs = append(errs, err)
			} else if c.Size > room {
				no("%s is of %d bytes, its partition of %d: partitions are fixed for the disk's life", title, c.Size, room)
			}
		}
		fits(bundles.RootErofs, n.SlotRoot)
		fits(bundles.RootVerity, n.SlotVerity)
	}
	if c, _, err := Raw(candidate, bundles.UKI); err != nil {
		errs = append(errs, err)
	} else if c.Size+espReserve > n.ESPFree {
		no("the EFI system partition has room for %d bytes, the boot entry needs %d", n.ESPFree, c.Size+espReserve)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("cannot accept release %d: %w", f.Release, err)
	}
	return nil
}

type engine struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

func engineOf(v *bundles.Verified) (engine, error) {
	b, err := v.NodeJSON()
	if err != nil {
		return engine{}, err
	}
	var n struct {
		Engine engine `json:"engine"`
	}
	if err := json.Unmarshal(b, &n); err != nil {
		return engine{}, fmt.Errorf("cannot read node.json of release %d: %w", v.Facts().Release, err)
	}
	return n.Engine, nil
}

func admitEngine(running, candidate *bundles.Verified) error {
	from, err1 := engineOf(running)
	to, err2 := engineOf(candidate)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	if from.Name != to.Name {
		return fmt.Errorf("its engine is %s, this node's %s: a node keeps its engine", to.Name, from.Name)
	}
	return EngineMayFollow(from.Version, to.Version)
}

// EngineMayFollow says whether an engine of version to may take up what one of
// version from left, and if not, why.
func EngineMayFollow(from, to string) error {
	if from == to {
		return nil // an appliance without Kubernetes has none
	}
	return skew(from, to)
}

var versionForm = regexp.MustCompile(`^v([0-9]{1,6})\.([0-9]{1,6})\.([0-9]{1,6})(?:[-+].*)?$`)

// skew allows the same minor version or the next one, and no way down: the
// datastore of a newer Kubernetes is not for an older one.
func skew(from, to string) error {
	a, err1 := parseVersion(from)
	b, err2 := parseVersion(to)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	switch {
	case b[0] < a[0], b[0] == a[0] && b[1] < a[1], b[0] == a[0] && b[1] == a[1] && b[2] < a[2]:
		return fmt.Errorf("its engine is %s, older than %s, which runs", to, from)
	case b[0] != a[0] || b[1] > a[1]+1:
		return fmt.Errorf("its engine is %s, more than one minor version after %s, which runs\nhint: go there by releases that have the versions between", to, from)
	}
	return nil
}

func parseVersion(s string) (v [3]int, err error) {
	m := versionForm.FindStringSubmatch(s)
	if m == nil {
		return v, fmt.Errorf("the engine's version %q is none", s)
	}
	for i := range v {
		v[i], _ = strconv.Atoi(m[i+1]) // at most six digits
	}
	return v, nil
}
