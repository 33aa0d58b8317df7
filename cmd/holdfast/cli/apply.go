package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"holdfast.dev/holdfast/bundles"
	"holdfast.dev/holdfast/cmd/holdfast/agentbin"
	"holdfast.dev/holdfast/cmd/holdfast/onto"
)

// applyFlags are what "apply" is told besides whom to trust.
type applyFlags struct {
	bundleFlags
	base, kubeconfig, context string
	dryRun                    bool
	timeout                   time.Duration
	o                         onto.Options
}

func (a *app) applyCmd() *cobra.Command {
	var f applyFlags
	c := f.add(&cobra.Command{
		Use:   "apply --kubeconfig FILE BUNDLE",
		Short: "Apply a release's manifests and images to a cluster that holdfast did not install",
		Long: `Verifies the bundle, and applies what of its release is for any cluster: the site's
manifests, charts and kustomizations, and some components of the platform, each with
its images. Those go into a registry that it brings along, all through the API server:
the nodes fetch nothing from outside, and nobody logs in to them. What the cluster has
itself is left out; what needs a node of holdfast is refused by name.

It says first what it is about to do, and refuses for all reasons at once. Then it
waits until all is healthy, and only then removes what an earlier release of the site
had and this one has not; volumes, claims, secrets, namespaces and definitions stay.
It may be interrupted, and run again.

Exit codes: 0 done, 1 failed or not healthy in time, 2 wrong usage, 3 refused.`,
		Example: `  holdfast apply --kubeconfig k3s.yaml --dry-run out/mysite-2.bundle
  holdfast apply --kubeconfig k3s.yaml --trust policy.json --zone official stick/mysite-2.bundle`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return a.applyTo(c.Context(), f, args[0]) },
	})
	c.Flags().StringVar(&f.kubeconfig, "kubeconfig", "", "the file that says where the cluster is, and who asks (required)")
	c.Flags().StringVar(&f.context, "context", "", "the context in it (default: its current one)")
	c.Flags().StringVar(&f.base, "base", "", "the bundle that BUNDLE is a difference from")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "only say what would be done; the API server checks every object that it can")
	c.Flags().DurationVar(&f.timeout, "timeout", 30*time.Minute, "give up after that long")
	c.Flags().StringSliceVar(&f.o.LeaveOut, "leave-out", nil, "a component that is not applied (may be repeated)")
	c.Flags().BoolVar(&f.o.AllowOlder, "allow-older", false, "take a lower release number than the cluster has, or another zone's")
	c.Flags().BoolVar(&f.o.TakeOver, "take-over", false, "take fields of objects that somebody else has set")
	c.Flags().StringVar(&f.o.Image, "image", "", "the image, already on every node, that the registry is started with (default: the smallest)")
	c.Flags().IntVar(&f.o.Port, "port", 0, fmt.Sprintf("the port of the registry on each node's loopback (default %d)", onto.DefaultPort))
	c.Flags().StringVar(&f.o.StorageClass, "storage-class", "", "of the registry's volume (default: the cluster's default)")
	c.Flags().Int64Var(&f.o.StorageGiB, "storage-gib", 0, "size of the registry's volume, when it is made (default: twice the images, at least 10)")
	return c
}

func (a *app) applyTo(ctx context.Context, f applyFlags, bundle string) error {
	var errs []error
	if f.kubeconfig == "" {
		errs = append(errs, errors.New("cannot apply: no cluster is named\nhint: --kubeconfig FILE; a lab's node takes a bundle by \"holdfast lab apply\""))
	}
	if f.o.Port != 0 && (f.o.Port < 1024 || f.o.Port > 65535) {
		errs = append(errs, fmt.Errorf("cannot use port %d\nhint: --port takes one from 1024 to 65535", f.o.Port))
	}
	if f.o.StorageGiB < 0 {
		errs = append(errs, fmt.Errorf("cannot make a volume of %d GiB", f.o.StorageGiB))
	}
	if err := errors.Join(errs...); err != nil {
		return errUsage{err}
	}
	trust, err := a.trust(f.policy, f.zone, f.min)
	if err != nil {
		return err
	}
	if f.o.Cluster, err = clusterOf(f.kubeconfig, f.context); err != nil {
		return err
	}
	if f.o.Program, err = agentbin.Registry(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	err = a.openWhole(ctx, trust, f.base, bundle, func(v *bundles.Verified) error { return a.applyRelease(ctx, f, v) })
	var d *bundles.DifferenceError
	if errors.As(err, &d) && f.base == "" {
		return fmt.Errorf("%w: cannot apply %s: it is a difference, and %d blobs must come from %s\nhint: name that bundle with --base", errPolicy, bundle, len(d.Missing), d.Since)
	}
	return err
}

// clusterOf reads a kubeconfig; it asks nobody.
func clusterOf(file, name string) (*rest.Config, error) {
	if _, err := os.Stat(file); err != nil {
		return nil, fmt.Errorf("cannot read the kubeconfig: %w\nhint: k3s writes its own to /etc/rancher/k3s/k3s.yaml", err)
	}
	c, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		&clientcmd.ClientConfigLoadingRules{ExplicitPath: file}, &clientcmd.ConfigOverrides{CurrentContext: name}).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("cannot use the kubeconfig %s: %w", file, err)
	}
	return c, nil
}

func (a *app) applyRelease(ctx context.Context, f applyFlags, v *bundles.Verified) error {
	o := f.o
	o.Release, o.Random, o.Now, o.Sleep, o.Report = v, a.Rand, a.Now, sleep, a.applyReport()
	p, err := onto.MakePlan(ctx, o)
	if err != nil {
		return err
	}
	a.showApply(p, f.dryRun)
	if f.dryRun {
		return nil
	}
	r, err := p.Apply(ctx)
	if err != nil {
		return fmt.Errorf("cannot apply release %d of %s: %w", p.Release.Release, p.Release.Name, err)
	}
	if a.json {
		a.event(map[string]any{"event": "applied", "release": p.Release.Release, "name": p.Release.Name, "index": p.Index.Digest, "sent": r.Sent, "removed": r.Removed, "bypassed": p.Bypassed})
		return nil
	}
	for _, line := range r.Removed {
		a.printf("removed  %s\n", line)
	}
	a.printf("release %d of %s is applied and healthy\n", p.Release.Release, p.Release.Name)
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

func (a *app) applyReport() onto.Report {
	say := func(event map[string]any, format string, args ...any) {
		if a.json {
			a.event(event)
		} else {
			fmt.Fprintf(a.Stderr, format, args...)
		}
	}
	bytes := a.progress("images")
	return onto.Report{
		Step:  a.step,
		Bytes: bytes,
		Health: func(name string, healthy bool, reason string) {
			text := "healthy"
			if !healthy {
				text = reason
			}
			say(map[string]any{"event": "component", "component": name, "healthy": healthy, "reason": reason}, "component %s: %s\n", name, text)
		},
		Wait: func(reason string) {
			say(map[string]any{"event": "waiting", "reason": reason}, "waiting: %s\n", reason)
		},
	}
}

// showApply says what is about to be done; with all of it every object too.
func (a *app) showApply(p onto.Plan, all bool) {
	if a.json {
		a.event(map[string]any{"event": "plan", "plan": p, "dryRun": all})
		return
	}
	a.printf("apply release %d of %s to the cluster at %s (Kubernetes %s)\n", p.Release.Release, p.Release.Name, p.Server, p.Version)
	if p.Was.Release != 0 {
		a.printf("  it has release %d\n", p.Was.Release)
	}
	if p.Own {
		a.printf("  a holdfast installed this cluster: its node does not know what is applied here, and does not update it\n")
	}
	if len(p.Bypassed) > 0 {
		a.printf("  BYPASSED by %s\n", strings.Join(p.Bypassed, ", "))
	}
	if p.Registry.There {
		a.printf("  the registry is there, at 127.0.0.1:%d of each node\n", p.Registry.Port)
	} else {
		a.printf("  a registry comes first, at 127.0.0.1:%d of each node, with a volume of %d GiB, started with %s\n", p.Registry.Port, p.Registry.GiB, p.Registry.Image)
	}
	for _, l := range p.LeftOut {
		a.printf("  left out: %s: %s\n", l.Component, l.Reason)
	}
	count := map[string]int{}
	for _, o := range p.Objects {
		count[string(o.Change)]++
		if all {
			note := ""
			if o.Unasked != "" {
				note = " (not checked by the server: " + o.Unasked + ")"
			}
			a.printf("%-9s  %s  %s%s\n", o.Change, o.Component, o.Object, note)
		}
	}
	if all {
		for _, im := range p.Images {
			a.printf("image      %s as %s\n", im.Name, im.Ref)
		}
		for _, line := range p.Remove {
			a.printf("remove     %s\n", line)
		}
	}
	a.printf("  objects: %d to create, %d to change, %d as they are, %d to remove; %d images\n", count["create"], count["change"], count["unchanged"], len(p.Remove), len(p.Images))
}
