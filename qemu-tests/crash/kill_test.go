package crash_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/bundles/install"
	"holdfast.dev/holdfast/qemu-tests/lab"
	"holdfast.dev/holdfast/qemu-tests/nbd"
)

// moment is when a machine is killed: a line on the console, and up to so long
// after it.
type moment struct {
	name string
	line *regexp.Regexp
	late time.Duration
}

// moments are one before, one at and one after the switch to the new release.
var moments = []moment{
	{"writing", regexp.MustCompile(`update to release \S+ \d+: writing`), 10 * time.Second},
	{"switching", regexp.MustCompile(`update to release \S+ \d+: switching`), 0},
	{"rebooting", regexp.MustCompile(`update: rebooting`), 10 * time.Second},
}

// kill takes the power away from a machine that makes an update: its disk is cut
// at once, and the machine is killed. Each time it must come up by itself,
// healthy, on one of the two releases, and in the end must take the update.
func kill(t *testing.T, rec recording, r releases) string {
	most := number(t, "HOLDFAST_CRASH_KILLS", 3)
	seed := uint64(number(t, "HOLDFAST_CRASH_SEED", 1))
	made := rec.Updates[slices.IndexFunc(rec.Updates, func(u taken) bool { return u.Name == "good" })]
	l, base := rec.open(t)
	before, err := nbd.StateAt(l, base, made.Applied, nbd.KeepAll)
	must(t, err)
	ctx := context.Background()
	k := &killer{bench: &bench{dir: scratch(t, "killed"), begin: before.Disk, vars: rec.Vars}, t: t, rnd: rand.New(rand.NewPCG(seed, 1)), most: most}
	t.Cleanup(func() { k.end(t) })
	for i := 0; k.kills < most; i++ {
		if i == 0 || k.on != made.From {
			must(t, k.anew(ctx))
		}
		k.audit = made.Audit
		m := moments[i%len(moments)]
		if err := k.cycle(ctx, made, m); err != nil {
			t.Fatalf("after %d kills, the last at %s: %v", k.kills, m.name, err)
		}
	}
	if k.on == made.From {
		_, err = k.take(ctx, made.Bundle, made.To)
		must(t, err)
	}
	must(t, k.powerOff())
	return fmt.Sprintf("A machine that makes the update was killed %d times, seed %d: at or soon after %s.\n", k.kills, seed, strings.Join(k.at, "; "))
}

// killer kills a machine again and again.
type killer struct {
	*bench
	t     *testing.T
	rnd   *rand.Rand
	most  int
	kills int
	at    []string
	on    int64 // the release on which it came to rest
	audit string
}

// anew begins with the disk as it was before the update.
func (k *killer) anew(ctx context.Context) error {
	if err := k.powerOff(); err != nil {
		return err
	}
	for _, name := range []string{"disk", "disk.map"} {
		if err := os.Remove(k.path(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := k.powerOn(ctx, ""); err != nil {
		return err
	}
	s, err := k.atRest(ctx)
	k.on = s.Confirmed
	return err
}

func (k *killer) now(name string) error {
	seed := k.rnd.Uint64N(1 << 40) // 0 and 1, which keep all or nothing, come too seldom by chance
	if k.kills%4 < 2 {
		seed = uint64(k.kills % 4)
	}
	k.kills++
	k.at = append(k.at, name)
	k.t.Logf("kill %d: at %s, operation %d of this boot, seed %d", k.kills, name, k.disk.Ops(), seed)
	return k.cut(seed)
}

// cycle begins at rest before the update and ends with a node at rest after a
// kill; now and then the boot after it is killed as well.
func (k *killer) cycle(ctx context.Context, made taken, m moment) error {
	k.vm.SkipConsole()
	if _, err := k.vm.Apply(ctx, made.Bundle, lab.ApplyOptions{Reboot: true}); err != nil {
		return err
	}
	if _, err := k.vm.ExpectRegexp(ctx, m.line, patience); err != nil {
		return err
	}
	if m.late > 0 {
		time.Sleep(time.Duration(k.rnd.Int64N(int64(m.late))))
	}
	if err := k.now(m.name); err != nil {
		return err
	}
	if err := k.powerOn(ctx, ""); err != nil {
		return err
	}
	if k.kills < k.most && k.rnd.IntN(3) == 0 {
		time.Sleep(time.Duration(k.rnd.Int64N(int64(time.Minute))))
		if err := k.now("boot after a kill"); err != nil {
			return err
		}
		if err := k.powerOn(ctx, ""); err != nil {
			return err
		}
	}
	s, err := k.atRest(ctx)
	if err != nil {
		return err
	}
	k.on = s.Confirmed
	k.t.Logf("at rest on release %d, %s: %s", s.Release.Number, s.Mode, s.Failed)
	k.audit, err = k.auditSince(ctx, k.audit)
	return err
}

// auditSince reads the audit log, which must begin with what it was. The node
// checks it before it gives it away, and gives none whose last line a power cut
// tore and no line followed.
func (b *bench) auditSince(ctx context.Context, was string) (string, error) {
	log, err := b.vm.Audit(ctx)
	if err != nil && strings.Contains(err.Error(), install.ErrTorn.Error()) {
		return was, nil
	}
	if err == nil && !strings.HasPrefix(log, was) {
		err = fmt.Errorf("the audit log lost what it had:\n%s\nis now\n%s", was, log)
	}
	return log, err
}
