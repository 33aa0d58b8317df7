package netpol

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"
)

// RecordsDir is where containerd's network library keeps what it gave to pods.
const RecordsDir = "/var/lib/cni/results"

const (
	settle = 20 * time.Millisecond // changes come in groups
	soon   = 200 * time.Millisecond
	retry  = 2 * time.Second
	again  = 5 * time.Minute // rules are loaded anew, whoever changed them
)

// Controller keeps the rules in force as the cluster's policies say. Make one
// with Run.
type Controller struct {
	node, records string
	load          func(context.Context, Rules) error
	log           *slog.Logger

	stores  []cache.Store
	synced  []func() bool
	changed chan struct{} // something is to be looked at

	last   Rules     // in force
	loaded time.Time // zero: none are
	told   string    // of policies that cannot be used

	mu  sync.Mutex
	err error
}

var errUnread = errors.New("the cluster's policies are not read yet")

// Run starts to enforce policies on the pods of node, until ctx ends. load puts
// rules into force, and records is RecordsDir.
func Run(ctx context.Context, c Cluster, node, records string, load func(context.Context, Rules) error, log *slog.Logger) *Controller {
	k := &Controller{node: node, records: records, load: load, log: log, changed: make(chan struct{}, 1),
		err: errUnread}
	for _, source := range []struct {
		from cache.ListerWatcher
		kind runtime.Object
	}{{c.Policies, &networkingv1.NetworkPolicy{}}, {c.Namespaces, &corev1.Namespace{}}, {c.Pods, &corev1.Pod{}}} {
		store, informer := cache.NewInformerWithOptions(cache.InformerOptions{
			ListerWatcher: source.from, ObjectType: source.kind, Transform: slim,
			Handler: cache.ResourceEventHandlerFuncs{
				AddFunc:    func(any) { k.kick() },
				UpdateFunc: func(_, _ any) { k.kick() },
				DeleteFunc: func(any) { k.kick() },
			},
		})
		k.stores, k.synced = append(k.stores, store), append(k.synced, informer.HasSynced)
		go informer.RunWithContext(ctx)
	}
	go k.watch(ctx)
	go k.run(ctx)
	return k
}

// Err says why the rules in force are not those that the cluster asks for, or
// nothing.
func (k *Controller) Err() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.err
}

func (k *Controller) kick() {
	select {
	case k.changed <- struct{}{}:
	default: // a look is due already
	}
}

// watch follows the records. Without them a pod is known when its status says
// where it is, seconds later.
func (k *Controller) watch(ctx context.Context) {
	for ctx.Err() == nil {
		err := watchRecords(ctx, k.records, k.kick)
		if ctx.Err() == nil {
			k.log.Error("cannot see pods start", "error", err)
			pause(ctx, retry)
		}
	}
}

func (k *Controller) run(ctx context.Context) {
	next := soon
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.changed:
			pause(ctx, settle)
		case <-time.After(next):
		}
		next = retry
		err := k.look(ctx)
		if ctx.Err() != nil {
			return
		}
		switch {
		case err == nil:
			next = again
		case errors.Is(err, errUnread):
			next = soon
		}
		k.mu.Lock()
		if err != nil && err != errUnread && (k.err == nil || k.err.Error() != err.Error()) {
			k.log.Error("policies are not in force", "error", err)
		}
		k.err = err
		k.mu.Unlock()
	}
}

// look loads the rules if they are others, or were not loaded for long.
func (k *Controller) look(ctx context.Context) error {
	var objects []runtime.Object
	for i, s := range k.stores {
		if !k.synced[i]() {
			return errUnread
		}
		for _, o := range s.List() {
			objects = append(objects, o.(runtime.Object))
		}
	}
	records, err := readRecords(k.records)
	if err != nil {
		return err
	}
	rules, err := Compile(state(objects, records, k.node))
	if msg := fmt.Sprint(err); err != nil && msg != k.told {
		k.log.Error("policies that cannot be used allow nothing", "error", err)
		k.told = msg
	}
	if !k.loaded.IsZero() && time.Since(k.loaded) < again && reflect.DeepEqual(rules, k.last) {
		return nil
	}
	if err := k.load(ctx, rules); err != nil {
		return err
	}
	k.last, k.loaded = rules, time.Now()
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
