package boot_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/qemu-tests/lab"
	"holdfast.dev/holdfast/qemu-tests/longtest"
)

// updating is a site's lab that takes one update after the other.
type updating struct {
	dir     string // what holdfast is called in
	vm      *lab.VM
	running uint64
}

// upForUpdates starts a lab of a built site, elsewhere than in the site's
// directory, so that others can have one of it too.
func upForUpdates(t *testing.T, site string, memory int) *updating {
	t.Helper()
	r, base := result(t, site)
	dir := filepath.Join(openDir(t, filepath.Base(site)+"-updates"), "site")
	copyInputs(t, dir, site)
	must(t, os.Mkdir(filepath.Join(dir, "out"), 0o755))
	for _, ext := range []string{".qcow2", ".json"} {
		must(t, os.Symlink(base+ext, filepath.Join(dir, "out", filepath.Base(base)+ext)))
	}
	t.Cleanup(func() {
		if _, err := try(t, dir, "lab", "down"); err != nil {
			t.Log(err)
		}
	})
	run(t, dir, "lab", "up", "--wait", "--memory", fmt.Sprint(memory))
	vm, err := lab.Open(filepath.Join(dir, "out", "lab"))
	must(t, err)
	return &updating{dir, vm, uint64(r.Release)}
}

// apply has the lab take a bundle, and returns what it said and its exit code.
func (u *updating) apply(t *testing.T, args ...string) (printed, int) {
	t.Helper()
	p, err := try(t, u.dir, append([]string{"lab", "apply"}, args...)...)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if exit != nil {
		return p, exit.ExitCode()
	}
	return p, 0
}

func (u *updating) audit(t *testing.T) string {
	t.Helper()
	a, err := u.vm.Audit(t.Context())
	must(t, err)
	return a
}

// goodUpdate applies a bundle that must be confirmed.
func (u *updating) goodUpdate(t *testing.T, bundle string, number uint64, flags ...string) {
	t.Helper()
	before, start := u.audit(t), time.Now()
	p, code := u.apply(t, "--wait", bundle)
	if code != 0 || !strings.Contains(p.both, fmt.Sprintf("release %d is confirmed and healthy", number)) {
		t.Fatalf("the update ended with code %d:\n%s\nconsole:\n%s", code, p.both, lastOf(console(t, u.vm)))
	}
	t.Logf("update to release %d, apply to confirmed: %.0f s", number, time.Since(start).Seconds())
	u.running = number
	u.isHealthy(t)
	u.saysSince(t, before, `"what":"importing"`, `"what":"retiring"`, `"what":"entry"`, `"what":"switching"`, `"what":"trial"`, `"what":"confirming"`, `"what":"confirmed"`)
	u.printed(t, fmt.Sprintf("confirmed %d", number))
	if !strings.Contains(console(t, u.vm), fmt.Sprintf("CONFIRMED: release %s %d", p.name(), number)) {
		t.Error("the console does not say that the release is confirmed")
	}
}

// name is the site's, from the plan that "lab apply" prints.
func (p printed) name() string {
	_, rest, _ := strings.Cut(p.stdout, "update ")
	name, _, _ := strings.Cut(rest, " ")
	return name
}

// badUpdate applies a bundle that must end on the release before.
func (u *updating) badUpdate(t *testing.T, bundle string, number uint64, reason string) {
	t.Helper()
	before, start, said := u.audit(t), time.Now(), len(console(t, u.vm))
	p, code := u.apply(t, "--wait", bundle)
	if code != 1 || !strings.Contains(p.both, fmt.Sprintf("the update to release %d failed, release %d runs", number, u.running)) {
		t.Fatalf("the update ended with code %d:\n%s\nconsole:\n%s", code, p.both, lastOf(console(t, u.vm)))
	}
	u.isHealthy(t)
	t.Logf("update to release %d, apply to healthy on release %d again: %.0f s: %s", number, u.running, time.Since(start).Seconds(), reason)
	u.printed(t, reason)
	u.printed(t, fmt.Sprintf("confirmed %d", u.running))
	u.saysSince(t, before, `"what":"returning"`, `"what":"returned"`)
	if !strings.Contains(u.audit(t)[len(before):], reason) {
		t.Errorf("the audit log does not have the reason %q", reason)
	}
	back := fmt.Sprintf("BACK on release %s %d", p.name(), u.running)
	if c := console(t, u.vm)[said:]; !strings.Contains(c, back) || !strings.Contains(c, reason) {
		t.Errorf("the console does not say %q and %q:\n%s", back, reason, lastOf(c))
	}
}

// refused applies a bundle that the node must not take, for all these reasons.
func (u *updating) refused(t *testing.T, bundle string, reasons ...string) {
	t.Helper()
	before := u.audit(t)
	p, code := u.apply(t, bundle)
	if code != 3 {
		t.Errorf("the exit code is %d, not 3:\n%s", code, p.both)
	}
	for _, r := range reasons {
		if !strings.Contains(p.both, r) {
			t.Errorf("the refusal does not say %q:\n%s", r, p.both)
		}
	}
	if after := u.audit(t); after != before {
		t.Errorf("a refused bundle changed the audit log:\n%s", after[len(before):])
	}
	u.printed(t, "step idle")
}

func (u *updating) isHealthy(t *testing.T) {
	t.Helper()
	must(t, u.vm.WaitHealthy(t.Context(), nil))
	s, err := u.vm.Status(t.Context())
	must(t, err)
	if s.Release.Number != int64(u.running) {
		t.Errorf("release %d runs, not %d", s.Release.Number, u.running)
	}
}

// printed looks for a text in "lab status".
func (u *updating) printed(t *testing.T, want string) {
	t.Helper()
	if p := run(t, u.dir, "lab", "status"); !strings.Contains(p.stdout, want) {
		t.Errorf("lab status does not say %q:\n%s", want, p.stdout)
	}
}

// saysSince looks for texts in the audit log, in that order, behind what it
// was, which must still be there: /var came along.
func (u *updating) saysSince(t *testing.T, before string, want ...string) {
	t.Helper()
	log := u.audit(t)
	rest, ok := strings.CutPrefix(log, before)
	if !ok {
		t.Fatalf("the audit log does not begin as it did:\n%s", log)
	}
	for _, w := range want {
		if _, rest, ok = strings.Cut(rest, w); !ok {
			t.Errorf("the audit log does not go on with %s:\n%s", w, log)
			return
		}
	}
}

func lastOf(console string) string { return console[max(0, len(console)-8<<10):] }

// noNode is a release whose agent finds no node for this machine: it is never
// healthy.
func noNode(f *forgery) {
	for _, n := range f.node["nodes"].([]any) {
		n.(map[string]any)["match"] = map[string]any{"serial": "another-machine"}
	}
	f.node["updates"] = map[string]any{"healthyWithin": 1}
}

// panics has a kernel that finds no init.
func panics(f *forgery) {
	f.cmdline = strings.Replace(f.cmdline, "panic=20", "panic=1", 1) + " rdinit=/none"
}

// noKernel is signed, and its header says that it is no program for firmware,
// which refuses to load it. One of another processor the loader would pass over.
// One that the boot stub refuses would not do: firmware crashes when the stub
// returns to the loader, and what then helps is only the power button.
func noKernel(f *forgery) {
	f.spoil = func(image []byte) {
		const subsystem, console = 4 + 20 + 68, 3 // in the PE header, from its signature on
		header := binary.LittleEndian.Uint32(image[60:])
		binary.LittleEndian.PutUint16(image[header+subsystem:], console)
	}
}

// hangs has an init that freezes once it runs: the watchdog's timer is all
// that goes on.
func hangs(f *forgery) { f.cmdline += ` systemd.run="/bin/sh -c 'kill -SEGV 1'"` }

// TestUpdate takes an operating system without Kubernetes through what can
// happen to an update. With HOLDFAST_LONG=1 it is all, else the quicker ones.
func TestUpdate(t *testing.T) {
	longtest.Begin(t, "qemu-system-x86_64", "qemu-img")
	site := bareSite(t, "updated", nil)
	good := anotherRelease(t, site, 10, withPackages("tree"))
	u := upForUpdates(t, site, 1024)
	neverRan := "it did not come up: its tries are used up, and its agent never ran"

	t.Run("Refused", func(t *testing.T) { refusals(t, u, site) })
	t.Run("NeverHealthy", func(t *testing.T) {
		said := len(console(t, u.vm))
		series := joined(t, site, "ended", forge(t, site, "nonode", 2, noNode), anotherRelease(t, site, 6, nil))
		u.badUpdate(t, series, 2, "no node of this site matches this machine")
		// Nobody goes on behind a release that went back.
		awaitConsole(t, u.vm, said, "the series of releases ends at bare 1: release bare 2 failed")
	})
	if os.Getenv("HOLDFAST_LONG") != "" {
		t.Run("Panics", func(t *testing.T) { u.badUpdate(t, forge(t, site, "panics", 3, panics), 3, neverRan) })
		t.Run("NoKernel", func(t *testing.T) { u.badUpdate(t, forge(t, site, "nokernel", 4, noKernel), 4, neverRan) })
		t.Run("Hangs", func(t *testing.T) { u.badUpdate(t, forge(t, site, "hangs", 5, hangs), 5, neverRan) })
	}
	t.Run("DryRun", func(t *testing.T) {
		before := u.audit(t)
		p, code := u.apply(t, "--dry-run", good)
		for _, w := range []string{fmt.Sprintf("from release %d to 10", u.running), "the OS changes", "package tree ", "added", "to be imported", "expected downtime"} {
			if code != 0 || !strings.Contains(p.stdout, w) {
				t.Errorf("the dry run, code %d, does not say %q:\n%s", code, w, p.both)
			}
		}
		if u.audit(t) != before {
			t.Error("a dry run changed the audit log")
		}
	})
	t.Run("InPlace", func(t *testing.T) { inPlace(t, u, site) })
	t.Run("Series", func(t *testing.T) { series(t, u, site, good) })
	if os.Getenv("HOLDFAST_LONG") != "" {
		t.Run("Difference", func(t *testing.T) { difference(t, u, site, anotherRelease(t, site, 11, withPackages("tree"))) })
	}
}

// refusals are of bundles that must not change anything.
func refusals(t *testing.T, u *updating, site string) {
	_, base := result(t, site)
	own := base + ".bundle"
	u.refused(t, own, "its number 1 is not higher than 1")
	u.refused(t, forge(t, site, "othersite", 1, func(f *forgery) {
		f.facts.Name = "other"
		f.node["engine"] = map[string]any{"name": "k3s", "version": "v1.36.0"}
	}), "it is of site other, this node of site bare", "its number 1 is not higher than 1", "its engine is k3s")
	u.refused(t, forge(t, site, "otherzone", 2, func(f *forgery) { f.facts.Zone = "secret" }), "it is for zone secret, not official")

	keys := openDir(t, "otherkeys")
	tool(t, "cp", filepath.Join(site, "site.yaml"), keys)
	run(t, keys, "keys", "generate", "--development")
	u.refused(t, forge(t, site, "otherkey", 2, func(f *forgery) { f.keys = keys }), "refused")

	cut := filepath.Join(openDir(t, "truncated"), "truncated.bundle")
	tool(t, "cp", own, cut)
	fi, err := os.Stat(cut)
	must(t, err)
	must(t, os.Truncate(cut, fi.Size()/2))
	u.refused(t, cut, "the bundle is cut off here")
}

// inPlace applies a release that changes nothing which a boot reads: the machine
// does not boot, and would into that release.
func inPlace(t *testing.T, u *updating, site string) {
	bundle, said := anotherRelease(t, site, 6, nil), len(console(t, u.vm))
	const kernel = "it takes a reboot: the kernel's image or its command line change"
	for _, c := range []struct{ bundle, want string }{
		{bundle, "no reboot: "},
		{forge(t, site, "loud", 7, func(f *forgery) { f.cmdline += " loglevel=7" }), kernel},
		{forge(t, site, "header", 7, noKernel), kernel},
		{forge(t, site, "moved", 7, noNode), "it takes a reboot: the site's nodes or its domain change"},
	} {
		if p, code := u.apply(t, "--dry-run", c.bundle); code != 0 || !strings.Contains(p.stdout, c.want) {
			t.Errorf("the dry run of %s, code %d, does not say %q:\n%s", c.bundle, code, c.want, p.both)
		}
	}
	u.goodUpdate(t, bundle, 6)
	if c := console(t, u.vm)[said:]; strings.Contains(c, "Booting") || strings.Contains(c, "rebooting") || !strings.Contains(c, "update: the new release takes over") {
		t.Errorf("the console does not say that the release took over without a boot:\n%s", lastOf(c))
	}
	if os.Getenv("HOLDFAST_LONG") != "" {
		before := u.audit(t)
		run(t, u.dir, "lab", "reboot", "--wait")
		u.isHealthy(t)
		u.saysSince(t, before)
	}
}

// joined is a file with several releases.
func joined(t *testing.T, site, name string, bundles ...string) string {
	t.Helper()
	file := filepath.Join(openDir(t, name), name+".bundle")
	run(t, site, append([]string{"bundle", "join", "--output", file}, bundles...)...)
	return file
}

// series applies a file of two releases: one with another root, and after it one
// that takes over in place, which nobody asks for once more.
func series(t *testing.T, u *updating, site, first string) {
	file := joined(t, site, "series", first, anotherRelease(t, site, 11, withPackages("tree")))
	before, said := u.audit(t), len(console(t, u.vm))
	if p, code := u.apply(t, "--dry-run", file); code != 0 || !strings.Contains(p.stdout, "to 10\n") || !strings.Contains(p.stdout, "then release 11 of the same file") {
		t.Errorf("the dry run, code %d:\n%s", code, p.both)
	}
	u.goodUpdate(t, file, 11)
	u.saysSince(t, before, `"what":"trial"`, `"what":"confirmed"`, `"what":"importing"`, `"what":"trial"`, `"what":"confirmed"`)
	awaitConsole(t, u.vm, said, "the series of releases ends at bare 11: it is the last")
	for _, want := range []string{"CONFIRMED: release bare 10", "going on in the series: release 11 to come", "update: the new release takes over"} {
		if c := console(t, u.vm)[said:]; !strings.Contains(c, want) {
			t.Errorf("the console does not say %q:\n%s", want, lastOf(c))
		}
	}
}

// awaitConsole waits until the console says something behind what it had.
func awaitConsole(t *testing.T, vm *lab.VM, had int, want string) {
	t.Helper()
	for range 60 {
		if strings.Contains(console(t, vm)[had:], want) {
			return
		}
		time.Sleep(time.Second)
	}
	t.Errorf("the console does not say %q:\n%s", want, lastOf(console(t, vm)))
}

// difference applies what "bundle create --since" makes.
func difference(t *testing.T, u *updating, site, base string) {
	next := anotherRelease(t, site, 12, withPackages("tree", "less"))
	diff := filepath.Join(openDir(t, "difference"), "difference.bundle")
	run(t, site, "bundle", "create", "--since", base, "--output", diff, next)
	u.goodUpdate(t, diff, 12)
}
