package image

import (
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"holdfast.dev/holdfast/airgap"
	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/overlays"
)

func demoSite() overlays.Site {
	return overlays.Site{Name: "demo", Zone: "official", Release: 1, OS: overlays.OS{
		Suite: "trixie", Kernel: "cloud", Packages: []string{"tcpdump"},
		Exclude: []overlays.Exclude{{Name: "perl-base", Reason: "no script runs on a node"}},
	}}
}

// demoLock holds the packages of demoSite, in the order that Resolve gives.
func demoLock(t *testing.T) airgap.Lock {
	t.Helper()
	want, _, err := Packages(demoSite())
	if err != nil {
		t.Fatal(err)
	}
	l := airgap.Lock{Epoch: 1700000000}
	set := airgap.Set{Name: OSSet, Want: want}
	for _, n := range slices.Sorted(slices.Values(want)) {
		p := airgap.Package{Name: n, Version: "1", Content: store.Content{Digest: store.FromBytes([]byte(n)), Size: 1}}
		l.Packages = append(l.Packages, p)
		set.Packages = append(set.Packages, p.ID())
	}
	l.Sets = []airgap.Set{set}
	return l
}

// The golden list is what a reviewer looks at when the base changes.
func TestPackages(t *testing.T) {
	want, exclude, err := Packages(demoSite())
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, n := range want {
		b.WriteString(n + "\n")
	}
	for _, e := range exclude {
		b.WriteString("not " + e.Name + ": " + e.Reason + "\n")
	}
	golden, err := os.ReadFile("testdata/packages.golden")
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(golden) {
		t.Errorf("the packages are not those of testdata/packages.golden:\n%s", b.String())
	}
	if again, _, _ := Packages(demoSite()); !slices.Equal(again, want) {
		t.Error("a second call gives others")
	}
	s := demoSite()
	s.OS.Kernel = "other"
	if _, _, err := Packages(s); err == nil {
		t.Error("an unknown kernel passes")
	}
}

func TestMakePlan(t *testing.T) {
	programs := []Program{{"kubernetes", "kubelet", "usr/bin/kubelet"}}
	p, err := MakePlan(demoSite(), demoLock(t), programs)
	if err != nil {
		t.Fatal(err)
	}
	if p.Name != "demo" || p.Suite != "trixie" || p.Zone != "official" || p.Kernel != "cloud" || p.Epoch != 1700000000 || len(p.Packages) != len(demoLock(t).Packages) || !slices.Equal(p.Programs, programs) {
		t.Errorf("got %+v", p)
	}
	hash := strings.Repeat("ab", 32)
	const cmdline = " systemd.verity_root_options=panic-on-corruption panic=20 gpt systemd.machine_id=firmware systemd.getty_auto=no systemd.import_credentials=no " +
		"console=tty0 console=ttyS0,115200 quiet loglevel=4 lockdown=integrity holdfast.epoch=1700000000"
	if got := p.CommandLine(hash, 7); got != "roothash="+hash+" holdfast.release=7"+cmdline {
		t.Errorf("command line %q", got)
	}
	again, err := MakePlan(demoSite(), demoLock(t), programs)
	if err != nil || !reflect.DeepEqual(p, again) {
		t.Errorf("a second plan differs: %v", err)
	}
}

func TestMakePlanRefuses(t *testing.T) {
	other := demoSite()
	other.OS.Packages = []string{"nmap"}
	lacking := demoLock(t)
	lacking.Packages = lacking.Packages[1:]
	for name, c := range map[string]struct {
		site overlays.Site
		lock airgap.Lock
	}{
		"no lock":        {demoSite(), airgap.Lock{}},
		"other packages": {other, demoLock(t)},
		"edited lock":    {demoSite(), lacking},
	} {
		if _, err := MakePlan(c.site, c.lock, nil); err == nil || !strings.Contains(err.Error(), "hint: ") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// A part may fill 80% of its slot, and not a byte more.
func TestFits(t *testing.T) {
	const limit = int64(VeritySize / 100 * FillPercent)
	if err := fits("verity", limit, VeritySize); err != nil {
		t.Error(err)
	}
	err := fits("root", int64(RootSize)/10*9, RootSize)
	if err == nil || !strings.Contains(err.Error(), "over 80% of its slot of 2048 MiB") || !strings.Contains(err.Error(), "hint: ") {
		t.Errorf("got %v", err)
	}
	if fits("verity", limit+1, VeritySize) == nil {
		t.Error("a byte more passes")
	}
}
