package apply

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

const clientWithDump = `apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: web}
---
apiVersion: batch/v1
kind: Job
metadata: {name: dump-web, namespace: db, annotations: {holdfast.dev/when: dump}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: restore-web, namespace: db, annotations: {holdfast.dev/when: restore}}
`

// Jobs that keep data and put them back are there at their moment alone.
func TestMoments(t *testing.T) {
	const dump, restore = "batch/v1 Job db dump-web", "batch/v1 Job db restore-web"
	f := &fake{unready: map[string]string{}}
	r := NewReconciler(f, []Component{component(t, "web", clientWithDump)}, nil, func() time.Time { return time.Unix(0, 0) })
	if h := r.Tick(t.Context()); !h[0].Healthy {
		t.Fatalf("%+v", h)
	}
	if want := []string{"inventory of 1", "ensure web", "Deployment web/web"}; !slices.Equal(f.done, want) {
		t.Errorf("at other moments: %q", f.done)
	}
	if got := r.Dumped(); !slices.Equal(got, []string{"web"}) {
		t.Errorf("dumped are %q", got)
	}

	f.done, f.unready["dump-web"] = nil, "still runs"
	slept := 0
	sleep := func(context.Context, time.Duration) error {
		if slept++; slept == 3 {
			delete(f.unready, "dump-web")
		}
		return nil
	}
	if err := r.Dump(t.Context(), "web", sleep); err != nil || slept != 3 {
		t.Errorf("after %d looks: %v", slept, err)
	}
	if want := []string{"delete " + dump, "Job db/dump-web", "delete " + dump}; !slices.Equal(f.done, want) {
		t.Errorf("dumping: %q", f.done)
	}
	f.done, f.unready["dump-web"] = nil, "no space"
	err := r.Dump(t.Context(), "web", func(context.Context, time.Duration) error { return errors.New("too late") })
	if err == nil || !strings.Contains(err.Error(), "no space") || !strings.Contains(err.Error(), "too late") || f.done[len(f.done)-1] != "delete "+dump {
		t.Errorf("%v: %q", err, f.done)
	}

	f = &fake{unready: map[string]string{"restore-web": "still runs"}}
	r = NewReconciler(f, []Component{component(t, "web", clientWithDump)}, nil, func() time.Time { return time.Unix(0, 0) })
	var done []string
	r.PutBack([]string{"web"}, func(name string) error { done = append(done, name); return nil })
	for range 2 {
		if h := r.Tick(t.Context()); h[0].Healthy || !strings.Contains(h[0].Reason, "waits for db/restore-web: still runs") || len(done) > 0 {
			t.Errorf("%+v, %q", h, done)
		}
	}
	delete(f.unready, "restore-web")
	if h := r.Tick(t.Context()); !h[0].Healthy || !slices.Equal(done, []string{"web"}) {
		t.Errorf("%+v, %q", h, done)
	}
	want := []string{"inventory of 1", "ensure web", "delete apps/v1 Deployment web web", "delete " + restore, "Job db/restore-web",
		"ensure web", "ensure web", "delete " + restore, "Deployment web/web"}
	if !slices.Equal(f.done, want) {
		t.Errorf("putting back: %q", f.done)
	}
}
