package catalog

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"

	"github.com/goccy/go-yaml"

	"holdfast.dev/holdfast/airgap/store"
)

// FromUpstream makes of components those whose images are their projects' own:
// composed is then what is put over these alone, and what of their manifests is
// otherwise, the objects of the folder upstream, is merged by name as those of With
// are.
func FromUpstream(all []Component, is func(name string) bool) ([]Component, error) {
	var out []Component
	var errs []error
	for _, c := range all {
		if is(c.Name) {
			joined, err := c.over(c.OfUpstream)
			if err != nil {
				errs = append(errs, fmt.Errorf("cannot take component %s from upstream: %w", c.Name, err))
			}
			c = joined
			c.Images = slices.Clone(c.Images)
			for i, im := range c.Images {
				c.Images[i].Source = Source{}
				if im.Upstream.Add != nil {
					c.Images[i].Source = *im.Upstream.Add
				}
			}
		}
		out = append(out, c)
	}
	return out, errors.Join(errs...)
}

// checkOfUpstream reports what is wrong with a component as it is with its
// project's images, alone and with all others.
func checkOfUpstream(alone, together Component, images map[string]store.Digest, fault func(string, ...any)) {
	if len(alone.OfUpstream) == 0 {
		return
	}
	if !alone.HasUpstream() {
		fault("it has a folder upstream, and does not say for each image what its project publishes")
	}
	for _, c := range []Component{alone, together} {
		c, err := c.over(c.OfUpstream)
		if err == nil {
			_, err = pin(c, images)
		}
		for _, f := range c.Sizes {
			_, serr := patched(c.Manifests, f)
			err = errors.Join(err, serr)
		}
		for _, h := range c.Hooks {
			_, herr := renderHooks(c, []File{h}, "", images)
			err = errors.Join(err, herr)
		}
		if err != nil {
			fault("from upstream: %w", err)
			return
		}
	}
}

var upstreamKey = regexp.MustCompile(`^( +)upstream:`)

// withoutUpstream is component.yaml as it stands, without the lines that say
// what projects publish: a component that is compiled does not change with
// them. What cannot be cut out so is returned whole.
func withoutUpstream(b []byte) []byte {
	var out []byte
	below := -1 // how far the key is set in whose lines are left out
	for l := range bytes.Lines(b) {
		in := len(l) - len(bytes.TrimLeft(l, " "))
		blank := len(bytes.TrimSpace(l)) == 0
		if below >= 0 && (blank || in > below) {
			continue
		}
		below = -1
		if m := upstreamKey.FindSubmatch(l); m != nil {
			below = len(m[1])
			continue
		}
		out = append(out, l...)
	}
	var whole, cut Component
	if yaml.Unmarshal(b, &whole) != nil || yaml.Unmarshal(out, &cut) != nil {
		return b
	}
	for i := range whole.Images {
		whole.Images[i].Upstream = Upstream{}
	}
	if !reflect.DeepEqual(whole, cut) {
		return b
	}
	return out
}
