package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"holdfast.dev/holdfast/airgap"
	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles/catalog"
	"holdfast.dev/holdfast/bundles/check"
	"holdfast.dev/holdfast/image"
	"holdfast.dev/holdfast/signing"
)

func (a *app) checkCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Prove that the release is closed: every image in it, no host outside, the zone's rules kept",
		Long: `Renders everything that the site's release would apply, charts and kustomizations
with it, and looks at all of it: each image that is named in a workload, an argument, a variable, a configuration or a
custom resource must be one of the release, by its digest in site.lock or composed
from locked inputs; each host outside the site's domain must be allowed by name in
site.yaml; the zone's rules must be kept. It needs no network, and of what "collect"
brings in only the archives of charts. "build" does the same first, and makes
nothing if anything is found.

All findings come at once, with file and line; exit code 3. Without a site.lock,
what can be seen is told, and the exit code is 1.`,
		Example: "  holdfast check\n  holdfast -C sites/harbour check --json",
		Args:    cobra.NoArgs,
		RunE:    func(*cobra.Command, []string) error { return a.checkSite() },
	}
}

func (a *app) checkSite() error {
	in, err := a.load()
	if err != nil {
		return err
	}
	l, unlocked := airgap.ReadLock(a.dir)
	if unlocked != nil && !errors.Is(unlocked, fs.ErrNotExist) {
		return unlocked
	}
	if in, err = a.render(in, l); err != nil {
		return err
	}
	for _, h := range in.skipped {
		a.notice(h)
	}
	r, err := a.closure(in, l)
	if err != nil {
		return err
	}
	if _, err := a.fittingLock(in); err != nil && unlocked == nil {
		r.Findings = append(findingsOf(check.Lock, err), r.Findings...)
	}
	if text := a.findings(r.Findings); text != "" {
		a.printf("%s\n", text)
	}
	for _, u := range r.Allowed {
		if a.json {
			a.event(struct {
				Event string `json:"event"`
				check.Use
			}{"allowed", u})
		} else {
			a.printf("%s: %s %s: host %q is outside the site, and allowed: %s\n", u.Place(), u.Object, u.Field, u.Host, u.Reason)
		}
	}
	// An input is missing: that is no verdict, whatever else was found.
	if n := len(r.Findings); unlocked != nil && n > 0 {
		return fmt.Errorf("cannot check all of site %s, with %s in what can be seen: %w", in.site.Name, count(n), unlocked)
	} else if unlocked != nil {
		return fmt.Errorf("cannot check all of site %s: %w", in.site.Name, unlocked)
	}
	if n := len(r.Findings); n > 0 {
		return fmt.Errorf("cannot pass site %s: %s (%w)", in.site.Name, count(n), errPolicy)
	}
	n := composed(in.images(l))
	if a.json {
		a.event(map[string]any{"event": "check", "ok": true, "images": r.Images, "locked": len(l.Images), "composed": n, "allowed": len(r.Allowed)})
		return nil
	}
	a.printf("the release is closed: it has the images of all %d places that name one (%d images by their digests in %s, %d composed from locked inputs); places that name a host outside, each allowed: %d\n",
		r.Images, len(l.Images), airgap.LockName, n, len(r.Allowed))
	return nil
}

// closed refuses to build what check would refuse.
func (a *app) closed(in inputs, l airgap.Lock) error {
	r, err := a.closure(in, l)
	if err != nil || len(r.Findings) == 0 {
		return err
	}
	text := a.findings(r.Findings)
	return fmt.Errorf("cannot build site %s: %s (%w)\n%s", in.site.Name, count(len(r.Findings)), errPolicy, text)
}

// findings is the text of all of them; with --json each is an event instead.
func (a *app) findings(fs []check.Finding) string {
	if !a.json {
		return strings.Join(check.Texts(fs), "\n")
	}
	for _, f := range fs {
		a.event(struct {
			Event string `json:"event"`
			check.Finding
		}{"finding", f})
	}
	return ""
}

func count(findings int) string {
	if findings == 1 {
		return "1 finding"
	}
	return fmt.Sprintf("%d findings", findings)
}

// closure holds everything that the site would apply against what its release
// will have. An error means that it could not be looked at.
func (a *app) closure(in inputs, l airgap.Lock) (check.Report, error) {
	site := check.Site{Images: in.images(l), Domain: in.site.Domain, Networks: in.networks()}
	for i, h := range in.site.Allow.Hosts {
		site.Allow = append(site.Allow, check.Allowed{Allowance: catalog.Allowance(h), File: "site.yaml", Line: in.site.AllowedHostLine(i)})
	}
	var broken []check.Finding
	var objects []catalog.Object
	for _, c := range slices.Concat(in.components, in.own, []catalog.Component{in.siteComponent()}) {
		read, err := catalog.Read(c)
		hooks, herr := catalog.ReadHooks(c)
		read, err = append(read, hooks...), errors.Join(err, herr)
		if err != nil {
			broken = append(broken, findingsOf(check.Manifest, err)...)
		} else {
			broken = append(broken, rendered(c, read)...)
		}
		objects = append(objects, read...)
		for _, h := range c.Allow.Hosts {
			site.Allow = append(site.Allow, check.Allowed{Allowance: h, Component: c.Name, File: c.Name + "/component.yaml"})
		}
		composed, err := check.Composed(c)
		if err != nil {
			return check.Report{}, err
		}
		objects = append(objects, composed...)
	}
	broken = slices.Concat(in.broken, broken, in.doubles(objects))
	r := check.Run(site, objects)
	for i, f := range r.Findings {
		r.Findings[i].Line = in.line(f.File, f.Line)
	}
	for i, u := range r.Allowed {
		r.Allowed[i].Line = in.line(u.File, u.Line)
	}
	r.Findings = append(r.Findings, check.Engine(in.site.Kubernetes.Engine, engineImages[in.site.Kubernetes.Engine], site.Images)...)
	secured, err := a.secured(in, l)
	if err != nil {
		return r, err
	}
	r.Findings = slices.Concat(broken, r.Findings, check.Rules(in.rules, secured))
	return r, nil
}

// line is a line of a file that a user has; of what was rendered there is none.
func (in inputs) line(file string, line int) int {
	for _, c := range in.own {
		if slices.ContainsFunc(c.Manifests, func(f catalog.File) bool { return f.Name == file }) {
			return 0
		}
	}
	return line
}

// rendered says what is wrong with c's manifests beside the images that they
// name, for each of which a digest stands in.
func rendered(c catalog.Component, objects []catalog.Object) []check.Finding {
	digests := map[string]store.Digest{}
	for _, o := range objects {
		for _, u := range o.Images() {
			digests[u.Name] = store.FromBytes(nil)
		}
	}
	_, err := catalog.Render(c, digests)
	return findingsOf(check.Manifest, err)
}

// images are all images of the release; those of others by what the lock has.
func (in inputs) images(l airgap.Lock) map[string]check.Digests {
	out, over := map[string]check.Digests{}, map[string]bool{}
	for _, c := range in.components {
		for _, im := range c.Images {
			out[im.Name] = check.Digests{Composed: true}
			over[im.Name] = im.Upstream.Add != nil // its project's has another digest
		}
	}
	for _, w := range in.request.Images { // not locked: that is a finding of its own
		if !over[w.Name] {
			out[w.Name] = check.Digests{}
		}
	}
	for _, im := range l.Images {
		if !over[im.Name] {
			out[im.Name] = check.Digests{Manifest: im.Digest, Index: im.Index}
		}
	}
	return out
}

// composed is how many of the images are.
func composed(images map[string]check.Digests) int {
	n := 0
	for _, d := range images {
		if d.Composed {
			n++
		}
	}
	return n
}

// networks are what counts as near: the nodes' networks, and the servers that
// the site file gives them.
func (in inputs) networks() []netip.Prefix {
	var out []netip.Prefix
	for _, n := range in.site.Nodes {
		if p, err := netip.ParsePrefix(n.Address); err == nil {
			out = append(out, p.Masked())
		}
		for _, s := range append(n.DNS, n.NTP...) {
			if a, err := netip.ParseAddr(s); err == nil {
				out = append(out, netip.PrefixFrom(a, a.BitLen()))
			}
		}
	}
	return out
}

// secured reads what the zone's rules are about.
func (a *app) secured(in inputs, l airgap.Lock) (check.Secured, error) {
	s := check.Secured{Zone: in.site.Zone}
	b, err := os.ReadFile(filepath.Join(a.dir, "trust", "policy.json"))
	if err != nil {
		return s, fmt.Errorf("cannot read the trust policy: %w\nhint: run \"holdfast keys generate\"", err)
	}
	if s.Policy, err = signing.ParsePolicy(b); err != nil {
		return s, fmt.Errorf("cannot use trust/policy.json: %w", err)
	}
	if _, err := os.Lstat(filepath.Join(a.dir, "keys", "release.key")); err == nil {
		s.KeyFile = "keys/release.key"
	}
	s.Packages = in.site.OS.Packages
	if _, ok := l.Set(image.OSSet); ok {
		packages, err := l.PackagesOf(image.OSSet)
		if err != nil {
			return s, err
		}
		s.Packages = nil
		for _, p := range packages {
			s.Packages = append(s.Packages, p.Name)
		}
	}
	return s, nil
}

// findingsOf makes a finding of each error that err joins.
func findingsOf(kind string, err error) []check.Finding {
	if err == nil {
		return nil
	}
	if all, ok := err.(interface{ Unwrap() []error }); ok {
		var out []check.Finding
		for _, e := range all.Unwrap() {
			out = append(out, findingsOf(kind, e)...)
		}
		return out
	}
	message, hint, _ := strings.Cut(strings.TrimSpace(err.Error()), "\nhint: ")
	return []check.Finding{{Kind: kind, Message: message, Hint: hint}}
}
