package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles"
	"holdfast.dev/holdfast/bundles/install"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/atomicfile"
)

// seriesFile is there while a node goes from release to release of one file.
const seriesFile = "/var/lib/holdfast/series.json"

// series is that file's content: what somebody agreed to when they took the
// file. Each release of it is verified and admitted anew when its turn comes.
type series struct {
	File     string     `json:"file,omitempty"` // none: on the stick
	Reboot   bool       `json:"reboot,omitempty"`
	Releases []inSeries `json:"releases"` // the oldest first
}

type inSeries struct {
	Release uint64       `json:"release"`
	Index   store.Digest `json:"index"`
}

// after lists the releases of s that are newer than that one.
func (s series) after(release uint64) (out []uint64) {
	for _, r := range s.Releases {
		if r.Release > release {
			out = append(out, r.Release)
		}
	}
	return out
}

func (s series) has(index store.Digest) bool {
	return slices.ContainsFunc(s.Releases, func(r inSeries) bool { return r.Index == index })
}

// seriesOf is the series of a file's bundles that are newer than a release. One
// bundle does not begin a series, but may end it.
func seriesOf(q bundleRequest, sections []bundles.Section, running uint64) series {
	s := series{File: q.file, Reboot: q.reboot}
	for _, b := range sections {
		if b.Facts.Release > running {
			s.Releases = append(s.Releases, inSeries{b.Facts.Release, b.Index.Digest})
		}
	}
	if len(s.Releases) < 2 && q.series == nil {
		return series{}
	}
	return s
}

// readSeries gives the zero value where there is none.
func (h Host) readSeries() (series, error) {
	var s series
	b, err := os.ReadFile(h.path(seriesFile))
	if errors.Is(err, os.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err != nil {
		return series{}, fmt.Errorf("cannot tell what is to be taken next: %w", err)
	}
	return s, nil
}

// writeSeries removes the file for the zero value.
func (h Host) writeSeries(s series) error {
	name := h.path(seriesFile)
	if len(s.Releases) == 0 {
		if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	}
	b, err := json.Marshal(s)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(name), 0o755)
	}
	if err == nil {
		err = atomicfile.Write(name, append(b, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("cannot note what is to be taken next: %w", err)
	}
	return nil
}

// choose opens the oldest release of a file that is newer than the running one,
// or the last if none is. Those before it are opened only where it is a
// difference from one that the node does not have; they need not open: a policy
// may no longer trust who signed what has been left behind.
func choose(sections []bundles.Section, running uint64, open func(s bundles.Section, before ...*bundles.Verified) (*bundles.Verified, error)) (*bundles.Verified, error) {
	i := slices.IndexFunc(sections, func(s bundles.Section) bool { return s.Facts.Release > running })
	if i < 0 {
		i = len(sections) - 1
	}
	v, err := open(sections[i])
	if d := (*bundles.DifferenceError)(nil); i > 0 && errors.As(err, &d) {
		var before []*bundles.Verified
		for _, s := range sections[:i] {
			if v, err := open(s, before...); err == nil {
				before = append(before, v)
			}
		}
		v, err = open(sections[i], before...)
	}
	if err != nil && len(sections) > 1 {
		err = fmt.Errorf("bundle %d of %d: %w", i+1, len(sections), err)
	}
	return v, err
}

// endSeries says why nothing more of a series is taken.
func (a *agent) endSeries(u *updates, why string) {
	if err := a.host.writeSeries(series{}); err != nil {
		a.log.Error("series", "error", err)
		return
	}
	a.Say("the series of releases ends at %s: %s", u.ref, why)
	a.showUpdate(u)
}

// goOn takes the next release of a series once this one is confirmed and
// healthy, if one was begun.
func (a *agent) goOn(ctx context.Context, u *updates, take func(bundleRequest) error) {
	s, err := a.host.readSeries()
	if err != nil {
		a.endSeries(u, err.Error())
		return
	}
	if len(s.Releases) == 0 {
		return
	}
	if state, err := u.machine.State(u.ref); err == nil && s.has(state.Failed.Release.Index) {
		a.endSeries(u, fmt.Sprintf("release %s failed", state.Failed.Release))
		return
	}
	if m := u.is(); m != install.Normal && m != install.OnTrial {
		a.endSeries(u, "this is not the release that was to run")
		return
	}
	for u.is() != install.Normal || !a.isThere(healthyFile) || u.isBusy() {
		if a.host.Sleep(ctx, stickPoll) != nil {
			return
		}
	}
	left := s.after(u.ref.Release)
	if len(left) == 0 {
		a.endSeries(u, "it is the last")
		return
	}
	source, what := s.File, s.File
	if source == "" {
		source, what = a.host.path(stickDevice), "the stick"
	}
	for told := false; ; told = true {
		if _, err := os.Stat(source); err == nil {
			break
		}
		if !told {
			a.Say("%s is to come from %s, which is not there", list(left), what)
		}
		if a.host.Sleep(ctx, stickPoll) != nil {
			return
		}
	}
	a.Say("going on in the series: %s to come", list(left))
	if err := take(bundleRequest{file: s.File, reboot: s.Reboot, series: &s}); err != nil && ctx.Err() == nil {
		a.endSeries(u, err.Error())
	}
}

// list is "release 8", or "releases 8, 9".
func list(releases []uint64) string {
	word := "release"
	if len(releases) > 1 {
		word = "releases"
	}
	return word + " " + strings.Join(strings.Fields(strings.Trim(fmt.Sprint(releases), "[]")), ", ")
}
