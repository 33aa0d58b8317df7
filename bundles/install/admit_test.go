package install

import (
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/bundles"
)

// roomy is a node that runs release 1 and on which everything fits.
func roomy(t *testing.T) (Node, *bundles.Verified) {
	dir, run := seed(t, first())
	return Node{
		Policy: policyOf(t, "official", testKey(1)), Confirmed: RefOf(run), Have: []string{dir},
		VarFree: 1 << 30, SlotRoot: 1 << 30, SlotVerity: 1 << 20, ESPFree: 64 << 20,
	}, run
}

func TestAdmit(t *testing.T) {
	n, run := roomy(t)
	if err := Admit(n, run, bundle(t, second())); err != nil {
		t.Fatal(err)
	}
	refused := func(name string, n Node, s spec, reasons ...string) {
		t.Helper()
		err := Admit(n, run, bundle(t, s))
		if err == nil {
			t.Errorf("%s was accepted", name)
			return
		}
		for _, r := range reasons {
			if !strings.Contains(err.Error(), r) {
				t.Errorf("%s: got %v, want %q", name, err, r)
			}
		}
	}
	s := second()
	s.release = 1
	refused("its own number", n, s, "not higher than 1")
	later := n
	later.Confirmed.Release = 5
	refused("a number below the confirmed one", later, second(), "not higher than 5")
	s = second()
	s.name, s.engine = "other", "k3s v1.37.0"
	refused("another site and engine", n, s, "site other", "keeps its engine")
	s = second()
	s.zone = "secret"
	refused("another zone", n, s, "zone secret, this node is in zone official")
	other := n
	other.Policy = policyOf(t, "official", testKey(2))
	refused("another key", other, second(), "not trusted")
	small := n
	small.VarFree, small.SlotRoot, small.SlotVerity, small.ESPFree = 1000, 1000, 1, 1<<20
	refused("no room anywhere", small, second(), "/var has 1000", "root.erofs is of 30000", "root.verity is of", "EFI system partition")
	s = second()
	s.root = first().root
	small.VarFree, small.ESPFree = n.VarFree, n.ESPFree
	if err := Admit(small, run, bundle(t, s)); err != nil {
		t.Errorf("the same root needs no slot: %v", err)
	}
}

func TestAdmitRepairsTheConfirmedRelease(t *testing.T) {
	n, run := roomy(t)
	v := bundle(t, second())
	n.Confirmed = RefOf(v)
	if err := Admit(n, run, v); err != nil {
		t.Error(err)
	}
	other := second()
	other.manifest = "kind: Other\n"
	if err := Admit(n, run, bundle(t, other)); err == nil {
		t.Error("another release under the confirmed number was accepted")
	}
}

func TestSkew(t *testing.T) {
	for _, c := range []struct {
		from, to string
		ok       bool
	}{
		{"v1.36.3", "v1.36.3", true},
		{"v1.36.3", "v1.36.10", true},
		{"v1.36.3", "v1.37.0", true},
		{"v1.36.3+k3s1", "v1.36.4+k3s1", true},
		{"v1.36.3", "v1.36.2", false},
		{"v1.36.3", "v1.35.9", false},
		{"v1.36.3", "v1.38.0", false},
		{"v1.36.3", "v2.0.0", false},
		{"v2.0.0", "v1.36.3", false},
		{"v1.36.3", "1.37", false},
		{"", "v1.37.0", false},
	} {
		if err := skew(c.from, c.to); (err == nil) != c.ok {
			t.Errorf("%s to %s: %v", c.from, c.to, err)
		}
	}
}

func TestPlan(t *testing.T) {
	n, run := roomy(t)
	v := bundle(t, second())
	s := Fresh(RefOf(run), false)
	p, err := MakePlan(s, n.Have, run, v)
	if err != nil {
		t.Fatal(err)
	}
	missing, err := Missing(v, n.Have, false)
	if err != nil || len(missing) == 0 || p.Blobs != len(missing) {
		t.Errorf("%d blobs, want %d, %v", p.Blobs, len(missing), err)
	}
	text := p.Text()
	for _, want := range []string{
		"from release 1 to 2", "the OS changes", "package libc6 1 -> 2 (in root.erofs)",
		"image registry.example/db:vtwo changed", "manifest db.yaml of db changed", "downtime: unknown",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	sp := first()
	sp.release, sp.manifest = 2, "kind: B\n"
	v = bundle(t, sp)
	s.Healthy, s.Failed = 95*time.Second, Failure{Release: RefOf(v), Reason: "node not ready"}
	if p, err = MakePlan(s, n.Have, run, v); err != nil {
		t.Fatal(err)
	}
	text = p.Text()
	for _, want := range []string{"the OS stays", "went back: node not ready", "no reboot: "} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	p.Reboot = "the site's nodes change"
	if text := p.Text(); !strings.Contains(text, "it takes a reboot: the site's nodes change\nexpected downtime: 1m35s") {
		t.Errorf("it does not say why it reboots:\n%s", text)
	}
	s.Confirmed.Release, s.Confirmed.Index = 3, "sha256:3"
	if p, err = MakePlan(s, n.Have, run, v); err != nil || !strings.Contains(p.Reboot, "3 is confirmed and does not run") {
		t.Errorf("in fallback: %q, %v", p.Reboot, err)
	}
	if strings.Contains(text, "package ") {
		t.Errorf("packages changed in\n%s", text)
	}
}
