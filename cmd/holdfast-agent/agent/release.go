package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/node"
	"holdfast.dev/holdfast/signing"
)

const (
	policyFile = "/usr/lib/holdfast/trust/policy.json"
	osFile     = "/usr/lib/holdfast/os.json"
	seedDir    = "/run/holdfast/seed"
	storeDir   = "/var/lib/holdfast/store"
)

func (h Host) layouts() []string { return []string{h.path(seedDir), h.path(storeDir)} }

var (
	rootHashArg = regexp.MustCompile(`(?:^|\s)roothash=([0-9a-f]{64})(?:\s|$)`)
	releaseArg  = regexp.MustCompile(`(?:^|\s)holdfast\.release=([0-9]{1,18})(?:\s|$)`)
)

// booted is what the machine was started with: the kernel's command line says
// it, which the signed boot entry fixes. Releases can share a root, and one may
// have taken over from another since.
type booted struct {
	rootHash string
	release  uint64
}

func (b booted) is(f bundles.Facts) bool { return f.RootHash == b.rootHash && f.Release == b.release }

func (h Host) booted() (booted, error) {
	line, err := os.ReadFile(h.path("/proc/cmdline"))
	if err != nil {
		return booted{}, fmt.Errorf("cannot read the kernel's command line: %w", err)
	}
	var errs []error
	arg := func(re *regexp.Regexp, name string) string {
		if m := re.FindSubmatch(line); m != nil {
			return string(m[1])
		}
		errs = append(errs, fmt.Errorf("cannot tell which release runs: the kernel's command line has no %s=", name))
		return "0"
	}
	var b booted
	b.rootHash = arg(rootHashArg, "roothash")
	b.release, err = strconv.ParseUint(arg(releaseArg, "holdfast.release"), 10, 64)
	t, err2 := h.readTakenOver()
	if t.Release != 0 {
		b.release = t.Release
	}
	return b, errors.Join(append(errs, err, err2)...)
}

// releases returns the releases that verify, the running one first, and then
// the others of its site and zone. Without the running one there are none: it
// is what says which site and zone this is.
func (h Host) releases(layouts []string) ([]*bundles.Verified, error) {
	trust, err := h.trust()
	if err != nil {
		return nil, err
	}
	boot, err := h.booted()
	if err != nil {
		return nil, err
	}
	all, refused := bundles.OpenLayout(layouts, trust)
	i := slices.IndexFunc(all, func(v *bundles.Verified) bool { return boot.is(v.Facts()) })
	if i < 0 {
		errs := []error{fmt.Errorf("cannot find the running release, number %d, whose root is %s", boot.release, boot.rootHash)}
		for _, v := range all {
			f := v.Facts()
			errs = append(errs, fmt.Errorf("release %s %d is not it: its root is %s", f.Name, f.Release, f.RootHash))
		}
		return nil, errors.Join(append(errs, refused)...)
	}
	out, run := []*bundles.Verified{all[i]}, all[i].Facts()
	for j, v := range all {
		if f := v.Facts(); j != i && f.Name == run.Name && f.Zone == run.Zone {
			out = append(out, v)
		}
	}
	return out, refused
}

// trust is whom this node believes: the policy in its root, for its zone.
func (h Host) trust() (bundles.Trust, error) {
	b, err := os.ReadFile(h.path(policyFile))
	if err != nil {
		return bundles.Trust{}, fmt.Errorf("cannot read the trust policy: %w", err)
	}
	policy, err := signing.ParsePolicy(b)
	if err != nil {
		return bundles.Trust{}, fmt.Errorf("cannot use the trust policy: %w", err)
	}
	zone, err := h.zone()
	return bundles.Trust{Policy: policy, Zone: zone}, err
}

// zone is the zone that the verified root is for. A policy may have rules for
// several; the weakest of them must not open this node.
func (h Host) zone() (string, error) {
	b, err := os.ReadFile(h.path(osFile))
	if err != nil {
		return "", fmt.Errorf("cannot tell the zone of this node: %w", err)
	}
	var o struct {
		Zone string `json:"zone"`
	}
	if err := json.Unmarshal(b, &o); err != nil || o.Zone == "" || o.Zone == bundles.AnyZone {
		return "", fmt.Errorf("cannot tell the zone of this node: %s names none", osFile)
	}
	return o.Zone, nil
}

// served is what package serve offers: the releases' indexes.
func (h Host) served(layouts []string) ([]store.Content, error) {
	vs, err := h.releases(layouts)
	var out []store.Content
	for _, v := range vs {
		out = append(out, v.Index())
	}
	return out, err
}

// running is the release that runs and what it says about its nodes.
type running struct {
	*bundles.Verified
	config node.Config
}

// adminConf is the kubeconfig that the release's engine writes; "" if it has none.
func (r running) adminConf() string {
	e, err := engineOf(r.config.Engine.Name)
	if err != nil {
		return ""
	}
	return e.adminConf
}

func (h Host) findRunning() (running, error) {
	vs, err := h.releases(h.layouts())
	if len(vs) == 0 {
		return running{}, err
	}
	b, err := vs[0].NodeJSON()
	if err != nil {
		return running{}, err
	}
	c, err := node.Parse(b)
	if err != nil {
		return running{}, err
	}
	return running{vs[0], c}, nil
}
