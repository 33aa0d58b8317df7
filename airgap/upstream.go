package airgap

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"holdfast.dev/holdfast/airgap/origin/debian"
	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/image/deb"
)

// Upstream asks archives and registries what they have: newer versions of
// locked packages and images, and locked ones that are gone. Small documents
// about images stay in s; else it changes nothing.
func Upstream(ctx context.Context, r Request, l Lock, net Network, s *store.Store) (newer, gone []string, err error) {
	newer, gone, ierr := r.imagesUpstream(ctx, l, net, s)
	charts, lost, cerr := r.chartsUpstream(ctx, l, net)
	newer, gone = append(newer, charts...), append(gone, lost...)
	engine, eerr := r.engineUpstream(ctx, l, net)
	gone = append(gone, engine...)
	index, _, err := r.index(ctx, net)
	if err != nil {
		err = fmt.Errorf("cannot ask the archives: %w", err)
	}
	if err := errors.Join(err, ierr, cerr, eerr); err != nil {
		return nil, nil, err
	}
	for _, p := range l.Packages {
		now, ok := index.Get(p.Name)
		if ok && deb.CompareVersions(now.Version, p.Version) > 0 {
			newer = append(newer, fmt.Sprintf("%s %s is locked, %s is there", p.Name, p.Version, now.Version))
		}
		if q, ok := index.GetVersion(p.Name, p.Version); !ok || q.Content != p.Content {
			gone = append(gone, p.ID())
		}
	}
	return newer, gone, nil
}

// index fetches and merges what the archives of r offer.
func (r Request) index(ctx context.Context, net Network) (*deb.Index, []debian.IndexResult, error) {
	var indices []*deb.Index
	var results []debian.IndexResult
	var errs []error
	for _, a := range []debian.Archive{
		{Name: debian.Main, Suite: r.Suite, Components: r.Sections, Arch: "amd64"},
		{Name: debian.Main, Suite: r.Suite + "-updates", Components: r.Sections, Arch: "amd64"},
		{Name: debian.Security, Suite: r.Suite + "-security", Components: r.Sections, Arch: "amd64"},
	} {
		res, err := debian.Index(ctx, net.Debian, a)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		indices = append(indices, res.Index)
		results = append(results, res)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, nil, err
	}
	index, err := deb.Merge(indices...)
	return index, results, err
}

// Changes says in lines how next differs from l in its packages, images and charts;
// nothing for a first lock.
func (l Lock) Changes(next Lock) []string {
	if len(l.Packages) == 0 {
		return nil
	}
	var out []string
	was, is := versions(l), versions(next)
	for _, p := range next.Packages {
		if v, ok := was[p.Name]; !ok {
			out = append(out, fmt.Sprintf("%s %s is new", p.Name, p.Version))
		} else if !strings.Contains(v, " "+p.Version+" ") {
			out = append(out, fmt.Sprintf("%s moved from%sto %s", p.Name, v, p.Version))
		}
	}
	for _, p := range l.Packages {
		if _, ok := is[p.Name]; !ok {
			out = append(out, fmt.Sprintf("%s %s is no longer needed", p.Name, p.Version))
		}
	}
	return slices.Concat(out,
		changes("image", l.Images, next.Images, func(im Image) (string, store.Digest) { return im.Name, im.Digest }),
		changes("chart", l.Charts, next.Charts, func(c Chart) (string, store.Digest) { return c.Name, c.Digest }))
}

// changes says in lines how next differs from was, of which each name has one
// digest. kind is the word for what they are.
func changes[T any](kind string, was, next []T, of func(T) (string, store.Digest)) []string {
	digests := func(ts []T) map[string]store.Digest {
		out := map[string]store.Digest{}
		for _, t := range ts {
			name, d := of(t)
			out[name] = d
		}
		return out
	}
	before, after := digests(was), digests(next)
	var out []string
	for _, t := range next {
		name, d := of(t)
		if old, ok := before[name]; !ok {
			out = append(out, fmt.Sprintf("%s %s is new", kind, name))
		} else if old != d {
			out = append(out, fmt.Sprintf("%s %s moved from %s to %s", kind, name, old, d))
		}
	}
	for _, t := range was {
		name, _ := of(t)
		if _, ok := after[name]; !ok {
			out = append(out, fmt.Sprintf("%s %s is no longer needed", kind, name))
		}
	}
	return out
}

// versions are the locked versions of each package, between spaces.
func versions(l Lock) map[string]string {
	out := map[string]string{}
	for _, p := range l.Packages {
		if out[p.Name] == "" {
			out[p.Name] = " "
		}
		out[p.Name] += p.Version + " "
	}
	return out
}

// AcceptScripts returns l with a verdict on the scripts that had none: the
// user took them unread, and that is what the lock says.
func (l Lock) AcceptScripts() Lock {
	return l.eachScript(func(_ Package, s Script) string {
		if s.Verdict == Unreviewed {
			return "accepted unread"
		}
		return s.Verdict
	})
}

// eachScript returns l with new verdicts.
func (l Lock) eachScript(verdict func(Package, Script) string) Lock {
	ps := slices.Clone(l.Packages)
	for i, p := range ps {
		p.Scripts = slices.Clone(p.Scripts)
		for j, s := range p.Scripts {
			p.Scripts[j].Verdict = verdict(p, s)
		}
		ps[i] = p
	}
	l.Packages = ps
	return l
}
