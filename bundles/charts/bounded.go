package charts

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"runtime/metrics"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"helm.sh/helm/v4/pkg/chart/common"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/engine"
)

// ErrEndless is wrapped by the error about a template that does not end. Helm's
// engine cannot be stopped: it runs on until the program ends, so little should
// be done after this.
var ErrEndless = errors.New("it does not end")

// bounds are what one pass over all templates of a chart may take. The charts
// of the large projects take a second, and some hundred megabytes.
type bounds struct {
	time time.Duration
	heap uint64 // bytes that the program's memory may grow by
}

var mostOfPass = bounds{time: time.Minute, heap: 2 << 30}

// marker ends the names of templates that only tell which one comes next. The
// engine goes through names from the last to the first, so each comes right
// before the one that it is named after.
const marker = "\x01"

// within renders all templates of p, once, with fs among the functions.
func (p prepared) within(b bounds, fs map[string]any) (map[string]string, error) {
	var at atomic.Value
	at.Store("the first one")
	fs = maps.Clone(fs)
	fs["holdfastAt"] = func(name string) string { at.Store(name); return "" }
	mark(p.chart)

	type result struct {
		out map[string]string
		err error
	}
	done := make(chan result, 1)
	before := heap()
	go func() {
		e := engine.Engine{CustomTemplateFuncs: fs}
		out, err := e.Render(p.chart, p.values)
		maps.DeleteFunc(out, func(name, _ string) bool { return strings.HasSuffix(name, marker) })
		done <- result{out, err}
	}()
	late := time.NewTimer(b.time)
	defer late.Stop()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	endless := func(what string) error {
		return fmt.Errorf("template %s: %w: it was given up after %s\nhint: look for what makes it go round so often, in the template and in the values", at.Load(), ErrEndless, what)
	}
	for {
		select {
		case r := <-done:
			return r.out, r.err
		case <-late.C:
			return nil, endless(b.time.String())
		case <-look.C:
			if now := heap(); now > before && now-before > b.heap {
				return nil, endless(fmt.Sprintf("%d MiB of memory", (now-before)>>20))
			}
		}
	}
}

// mark puts a marker before each template of c.
func mark(c *chart.Chart) {
	for _, t := range c.Templates {
		if t != nil && !strings.HasPrefix(path.Base(t.Name), "_") {
			call := "{{ holdfastAt " + strconv.Quote(path.Join(c.ChartFullPath(), t.Name)) + " }}"
			c.Templates = append(c.Templates, &common.File{Name: t.Name + marker, Data: []byte(call)})
		}
	}
	for _, d := range c.Dependencies() {
		mark(d)
	}
}

// heap is what lives in the program's memory, and is not collected yet.
func heap() uint64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}
