package crash_test

import (
	"context"
	"encoding/json"
	"os"
	"testing"
	"time"
)

// recording is the log of a node's first boot and of one update of it.
type recording struct {
	Log, Image string
	Applied    int // operations when the update was asked for
	Confirmed  int // when it had come to its end
	Seconds    float64
}

// record makes the recording, or takes the one of HOLDFAST_CRASH_LOG, a file
// that record wrote.
func record(t *testing.T, r releases) recording {
	t.Helper()
	var rec recording
	name := os.Getenv("HOLDFAST_CRASH_LOG")
	if b, err := os.ReadFile(name); err == nil {
		must(t, json.Unmarshal(b, &rec))
		return rec
	}
	dir := keepDir(t, "record")
	ctx, start := context.Background(), time.Now()
	b := &bench{dir: dir, image: r.old.image}
	t.Cleanup(func() { b.end(t) })
	rec.Log, rec.Image = b.path("log"), b.image
	must(t, b.powerOn(ctx, rec.Log))
	_, err := b.atRest(ctx)
	must(t, err)
	rec.Applied = b.disk.Ops()
	_, err = b.vm.Apply(ctx, r.new.bundle, false)
	must(t, err)
	_, err = b.waitFor(ctx, "on the new release", func(s seen) bool {
		return s.Healthy() && s.Release.Number == 2 && s.Step == "idle" && s.Confirmed == 2
	})
	must(t, err)
	time.Sleep(10 * time.Second) // for what the kernel writes behind
	rec.Confirmed = b.disk.Ops()
	must(t, b.vm.Kill())
	must(t, b.disk.Close())
	rec.Seconds = time.Since(start).Seconds()
	t.Logf("recorded %d operations of a first boot and an update in %.0f s; the update begins at %d", rec.Confirmed, rec.Seconds, rec.Applied)
	if name != "" {
		doc, err := json.Marshal(rec)
		must(t, err)
		must(t, os.WriteFile(name, doc, 0o644))
	}
	return rec
}
