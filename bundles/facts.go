// Package bundles makes releases, packs them for carrying, and opens them
// again: only Open, OpenAt and OpenLayout make a Verified, so that what has
// not been verified cannot be installed. The format is in
// docs/bundle-format.md.
//
// The agent links this package; it imports little.
package bundles

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"

	"holdfast.dev/holdfast/signing"
)

// ErrRefused is wrapped by errors about a bundle or layout that was read and
// is not acceptable. Those about signatures also wrap signing.ErrUntrusted.
// Any other error means that it could not be read.
var ErrRefused = errors.New("refused")

// Facts is what a release says of itself, under its signature.
type Facts struct {
	Name     string `json:"name"`
	Release  uint64 `json:"release"`
	Zone     string `json:"zone"`
	Domain   string `json:"domain"`
	Version  string `json:"version"`  // of holdfast
	Epoch    int64  `json:"epoch"`    // seconds; time on a node is never earlier
	RootHash string `json:"roothash"` // of dm-verity, 64 hexadecimal digits
}

const (
	annName     = "dev.holdfast.name"
	annRelease  = "dev.holdfast.release"
	annZone     = "dev.holdfast.zone"
	annDomain   = "dev.holdfast.domain"
	annVersion  = "dev.holdfast.version"
	annEpoch    = "dev.holdfast.epoch"
	annRootHash = "dev.holdfast.roothash"
)

var (
	nameForm     = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	rootHashForm = regexp.MustCompile(`^[0-9a-f]{64}$`)
	textForm     = regexp.MustCompile(`^[!-~]{1,253}$`)
)

func (f Facts) annotations() map[string]string {
	return map[string]string{
		annName: f.Name, annRelease: strconv.FormatUint(f.Release, 10), annZone: f.Zone,
		annDomain: f.Domain, annVersion: f.Version, annEpoch: strconv.FormatInt(f.Epoch, 10),
		annRootHash: f.RootHash,
	}
}

func parseFacts(a map[string]string) (Facts, error) {
	f := Facts{Name: a[annName], Zone: a[annZone], Domain: a[annDomain], Version: a[annVersion], RootHash: a[annRootHash]}
	var err1, err2 error
	f.Release, err1 = strconv.ParseUint(a[annRelease], 10, 64)
	f.Epoch, err2 = strconv.ParseInt(a[annEpoch], 10, 64)
	errs := []error{err1, err2}
	for k, want := range f.annotations() {
		if a[k] != want {
			errs = append(errs, fmt.Errorf("%s is %q", k, a[k]))
		}
	}
	return f, errors.Join(append(errs, f.check())...)
}

func (f Facts) check() error {
	var errs []error
	wrong := func(ok bool, what string, v any) {
		if !ok {
			errs = append(errs, fmt.Errorf("%s %q is wrong", what, fmt.Sprint(v)))
		}
	}
	wrong(nameForm.MatchString(f.Name), "name", f.Name)
	wrong(f.Release > 0, "release number", f.Release)
	wrong(slices.Contains(signing.Zones(), f.Zone), "zone", f.Zone)
	wrong(textForm.MatchString(f.Domain), "domain", f.Domain)
	wrong(textForm.MatchString(f.Version), "version", f.Version)
	wrong(f.Epoch >= 0, "epoch", f.Epoch)
	wrong(rootHashForm.MatchString(f.RootHash), "root hash", f.RootHash)
	return errors.Join(errs...)
}
