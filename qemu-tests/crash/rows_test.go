package crash_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/overlays"
	"holdfast.dev/holdfast/qemu-tests/lab"
	"holdfast.dev/holdfast/qemu-tests/longtest"
	"holdfast.dev/holdfast/qemu-tests/nbd"
)

// rowsRecording is the log of the README's site, with Kubernetes and PostgreSQL,
// that takes an update while rows are written.
type rowsRecording struct {
	Log, Image, Vars, Bundle string
	Acks                     []ack
	Sent                     int            // the last row that was sent
	At                       map[string]int // operations when the console said it
	Commit                   string
}

// heard are lines of the console, in their order.
var heard = []struct{ name, line string }{
	{"importing", `update to release \S+ 2: importing`},
	{"stopping", `update to release \S+ 2: stopping`},
	{"switching", `update to release \S+ 2: switching`},
	{"trial", `is on trial`},
	{"confirmed", `CONFIRMED: release`},
}

// fullSite makes both releases of the README's site; the second has one manifest
// more.
func fullSite(t *testing.T, dir string) (first, second string) {
	t.Helper()
	first, second = filepath.Join(dir, "1"), filepath.Join(dir, "2")
	if _, err := os.Stat(filepath.Join(second, "out", "boot-2.json")); err == nil {
		return first, second
	}
	must(t, os.RemoveAll(first))
	must(t, os.RemoveAll(second))
	holdfast(t, "init", "--name", "boot", first)
	holdfast(t, "-C", first, "keys", "generate", "--development")
	must(t, os.CopyFS(second, os.DirFS(first)))
	yaml, err := os.ReadFile(filepath.Join(second, "site.yaml"))
	must(t, err)
	yaml = regexp.MustCompile(`(?m)^release: \d+$`).ReplaceAll(yaml, []byte("release: 2"))
	must(t, os.WriteFile(filepath.Join(second, "site.yaml"), yaml, 0o644))
	must(t, os.WriteFile(filepath.Join(second, "manifests", "new.yaml"),
		[]byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: new, namespace: default}\ndata: {a: b}\n"), 0o644))
	for _, site := range []string{first, second} {
		for _, what := range [][]string{{"lock", "--accept-scripts"}, {"collect"}, {"build"}} {
			holdfast(t, append([]string{"-C", site}, what...)...)
		}
	}
	return first, second
}

// onFull is a bench for the full site, in a directory that is one of "holdfast
// lab".
func onFull(dir string, begin func(string, nbd.Options) (*nbd.Disk, error)) (*bench, error) {
	site, err := overlays.Load(dir)
	if err != nil {
		return nil, err
	}
	m := site.Nodes[0].Match
	return &bench{dir: dir, lab: filepath.Join("out", "lab"), begin: begin, as: lab.Config{MemoryMiB: 4096, Serial: m.Serial, MAC: m.MAC}}, nil
}

// recordRows makes the recording, or takes the one of an earlier run.
func recordRows(t *testing.T, first, second string) rowsRecording {
	t.Helper()
	b, err := onFull(first, onImage(filepath.Join(first, "out", "boot-1.raw"), 24<<30))
	must(t, err)
	rec := rowsRecording{Log: b.path("log"), Image: filepath.Join(first, "out", "boot-1.raw"), Vars: b.path("vars.fd"),
		Bundle: filepath.Join(second, "out", "boot-2.bundle"), At: map[string]int{}, Commit: commit()}
	kept := b.path("recording.json")
	if doc, err := os.ReadFile(kept); err == nil {
		must(t, json.Unmarshal(doc, &rec))
		return rec
	}
	for _, name := range []string{"disk", "disk.map", "log", b.lab} {
		must(t, os.RemoveAll(b.path(name))) // of a run that did not come to its end
	}
	ctx, start := context.Background(), time.Now()
	t.Cleanup(func() { b.end(t) })
	must(t, b.powerOn(ctx, rec.Log))
	_, err = b.atRest(ctx)
	must(t, err)
	must(t, copyFile(rec.Vars, filepath.Join(b.labDir(), "vars.fd")))
	t.Logf("the full site is healthy after %.0f s", time.Since(start).Seconds())
	_, err = b.psql(ctx, "create table kept (id bigint primary key, text text default repeat('holdfast ', 20))")
	must(t, err)
	w := writer{bench: b}
	stop := w.start(ctx)
	defer stop()
	time.Sleep(30 * time.Second)
	listened := make(chan error, 1)
	console, err := lab.Open(b.labDir()) // one of its own, for another goroutine
	must(t, err)
	console.SkipConsole()
	go func() {
		for _, h := range heard {
			if _, err := console.ExpectRegexp(ctx, regexp.MustCompile(h.line), 2*patience); err != nil {
				listened <- err
				return
			}
			rec.At[h.name] = b.disk.Ops()
		}
		listened <- nil
	}()
	_, err = b.take(ctx, rec.Bundle, 2)
	must(t, err)
	must(t, <-listened)
	t.Logf("the update is confirmed after %.0f s", time.Since(start).Seconds())
	time.Sleep(30 * time.Second)
	stop()
	must(t, b.powerOff())
	rec.Acks, rec.Sent = w.acks, w.sent
	doc, err := json.Marshal(rec)
	must(t, err)
	must(t, os.WriteFile(kept, doc, 0o644))
	t.Logf("recorded %d rows that PostgreSQL acknowledged, and %d operations at %v, in %.0f s", len(rec.Acks), b.disk.Ops(), rec.At, time.Since(start).Seconds())
	return rec
}

// rowsCut is a power cut in it, and what came of it.
type rowsCut struct {
	Name         string
	Op           int
	Seed         uint64
	May          []int64 // releases on which it may come to rest
	Rests        int64
	Acked, There int // rows
	Seconds      float64
}

// cuts are one before the update, three in it, and one after it: behind a row
// that was acknowledged, where there is one.
func (rec rowsRecording) cuts(rnd *rand.Rand) []rowsCut {
	between := func(from, to int) int {
		var some []int
		for _, a := range rec.Acks {
			if a.Ops >= from && a.Ops < to {
				some = append(some, a.Ops+rnd.IntN(5))
			}
		}
		if len(some) == 0 {
			return from + rnd.IntN(to-from)
		}
		return some[rnd.IntN(len(some))]
	}
	at := rec.At
	return []rowsCut{
		{Name: "while rows are written", Op: between(0, at["importing"]), Seed: nbd.KeepNone, May: []int64{1}},
		{Name: "between importing and stopping", Op: between(at["importing"], at["stopping"]), Seed: 2 + rnd.Uint64N(1<<40), May: []int64{1}},
		{Name: "while the engine is stopped", Op: between(at["stopping"], at["switching"]), Seed: 2 + rnd.Uint64N(1<<40), May: []int64{1}},
		{Name: "on trial", Op: between(at["trial"], at["confirmed"]), Seed: nbd.KeepNone, May: []int64{2}},
		{Name: "confirmed", Op: between(at["confirmed"], rec.Acks[len(rec.Acks)-1].Ops+1), Seed: 2 + rnd.Uint64N(1<<40), May: []int64{2}},
	}
}

// rows takes the power away from the full site while rows are written: every row
// that PostgreSQL acknowledged must be there afterwards.
func rows(t *testing.T) (text, left string) {
	seed := uint64(number(t, "HOLDFAST_CRASH_SEED", 1))
	dir := scratch(t, "full")
	first, second := fullSite(t, dir)
	rec := recordRows(t, first, second)
	l, err := nbd.OpenLog(rec.Log)
	must(t, err)
	defer l.Close()
	base, err := os.Open(rec.Image)
	must(t, err)
	defer base.Close()
	var s strings.Builder
	fmt.Fprintf(&s, "The README's site wrote %d rows, each in a transaction of its own, before, during and after an update (commit %s, %d operations). Power cuts, seed %d:\n\n", len(rec.Acks), rec.Commit, l.Len(), seed)
	end := time.Now().Add(time.Duration(number(t, "HOLDFAST_CRASH_MINUTES", 24*60)) * time.Minute)
	for _, c := range rec.cuts(rand.New(rand.NewPCG(seed, 3))) {
		kept := filepath.Join(dir, fmt.Sprintf("booted-%d.json", c.Op))
		if doc, err := os.ReadFile(kept); err == nil {
			must(t, json.Unmarshal(doc, &c))
		} else if time.Now().After(end) {
			left = c.Name + " and what follows"
			break
		} else {
			state, err := nbd.StateAt(l, base, c.Op, c.Seed)
			must(t, err)
			if err := rec.boot(t.Context(), &c, state, first, filepath.Join(dir, strconv.Itoa(c.Op))); err != nil {
				t.Fatalf("%s, after operation %d, seed %d: %v", c.Name, c.Op, c.Seed, err)
			}
			doc, err := json.Marshal(c)
			must(t, err)
			must(t, os.WriteFile(kept, doc, 0o644))
		}
		line := fmt.Sprintf("* %s, after operation %d: release %d, healthy after %.0f s; %d rows were acknowledged, and are there, of %d\n", c.Name, c.Op, c.Rests, c.Seconds, c.Acked, c.There)
		t.Log(line)
		s.WriteString(line)
	}
	return s.String(), left
}

// boot starts a machine on the disk that the cut leaves, and looks for the rows.
func (rec rowsRecording) boot(ctx context.Context, c *rowsCut, state *nbd.State, site, dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(dir, "out"), 0o755); err != nil {
		return err
	}
	for _, name := range []string{"site.yaml", "out/boot-1.json"} {
		if err := copyFile(filepath.Join(dir, name), filepath.Join(site, name)); err != nil {
			return err
		}
	}
	b, err := onFull(dir, state.Disk)
	if err != nil {
		return err
	}
	b.vars = rec.Vars
	defer b.powerOff()
	start := time.Now()
	if err := b.powerOn(ctx, ""); err != nil {
		return err
	}
	s, err := b.atRest(ctx)
	if err != nil {
		return err
	}
	c.Rests, c.Seconds = s.Release.Number, time.Since(start).Seconds()
	if !slices.Contains(c.May, c.Rests) {
		return fmt.Errorf("it is at rest on release %d, and not on one of %d", c.Rests, c.May)
	}
	said, err := b.psql(ctx, "select id from kept order by id")
	if err != nil {
		return err
	}
	there := map[int]bool{}
	for id := range strings.FieldsSeq(said) {
		n, err := strconv.Atoi(id)
		if err != nil || n < 1 || n > rec.Sent {
			return fmt.Errorf("there is a row %q, which nobody wrote", id)
		}
		there[n] = true
	}
	c.There = len(there)
	var lost []int
	for _, a := range rec.Acks {
		if a.Ops > c.Op {
			break
		}
		if c.Acked++; !there[a.Row] {
			lost = append(lost, a.Row)
		}
	}
	if len(lost) > 0 {
		return fmt.Errorf("of %d rows that were acknowledged %d are lost: %d", c.Acked, len(lost), lost)
	}
	if err := b.powerOff(); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// TestRows boots the README's site, for which it takes the better part of an
// hour.
func TestRows(t *testing.T) {
	longtest.Begin(t, "qemu-system-x86_64")
	if os.Getenv("HOLDFAST_CRASH_FULL") == "" {
		t.Skip("takes most of an hour; HOLDFAST_CRASH_FULL=1 runs it")
	}
	part(t, "Rows", rows)
}
