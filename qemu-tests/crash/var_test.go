package crash_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"holdfast.dev/holdfast/bundles"
	"holdfast.dev/holdfast/bundles/install"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/update"
	"holdfast.dev/holdfast/image/disk"
	"holdfast.dev/holdfast/image/slot"
	"holdfast.dev/holdfast/qemu-tests/nbd"
	"holdfast.dev/holdfast/signing"
)

// node reads /var of a state as the kernel would, and lets the agent's own code
// take up what it finds there.
type node struct {
	dir   string // scratch
	seed  string // the seed store, as a directory
	trust bundles.Trust
	log   *nbd.Log
}

func newNode(t *testing.T, rec recording, r releases, l *nbd.Log, parts []disk.Partition) *node {
	t.Helper()
	dir, err := os.MkdirTemp(scratch(t, "var"), "*")
	must(t, err)
	n := &node{dir: dir, log: l}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil && !t.Failed() {
			t.Log(err)
		}
	})
	b, err := os.ReadFile(filepath.Join(r.trust, "policy.json"))
	must(t, err)
	policy, err := signing.ParsePolicy(b)
	must(t, err)
	n.trust = bundles.Trust{Policy: policy, Zone: "official"}
	i := slices.IndexFunc(parts, func(p disk.Partition) bool { return p.Name == "holdfast-seed" })
	image, err := os.Open(rec.Image)
	must(t, err)
	defer image.Close()
	seed := filepath.Join(n.dir, "seed.erofs")
	out, err := os.Create(seed)
	must(t, err)
	_, err = io.Copy(out, io.NewSectionReader(image, parts[i].Start, parts[i].Size))
	must(t, errors.Join(err, out.Close()))
	n.seed = filepath.Join(n.dir, "seed")
	if out, err := exec.Command("fsck.erofs", "--extract="+n.seed, seed).CombinedOutput(); err != nil {
		t.Fatalf("fsck.erofs: %v\n%s", err, out)
	}
	return n
}

// varOf is where /var is in a state; there is none before the first boot made
// it.
func varOf(s io.ReaderAt, size int64) (disk.Partition, bool) {
	parts, err := disk.ReadGPT(s, size)
	if err != nil {
		return disk.Partition{}, false
	}
	i := slices.IndexFunc(parts, func(p disk.Partition) bool { return p.Name == "holdfast-var" })
	if i < 0 {
		return disk.Partition{}, false
	}
	return parts[i], true
}

// extract makes a directory of /var/lib/holdfast in a state.
func (n *node) extract(s *nbd.State, p disk.Partition, upTo int) (root string, err error) {
	image, err := n.mended(s, p, upTo, "-fy")
	if err != nil {
		return "", err
	}
	root = filepath.Join(n.dir, "root")
	if err := os.RemoveAll(root); err != nil {
		return "", err
	}
	lib := filepath.Join(root, "var/lib")
	if err := os.MkdirAll(lib, 0o755); err != nil {
		return "", err
	}
	if out, err := exec.Command("debugfs", "-R", "rdump /lib/holdfast "+lib, image).CombinedOutput(); err != nil {
		return "", fmt.Errorf("debugfs: %w\n%s", err, out)
	}
	return root, os.MkdirAll(filepath.Join(lib, "holdfast"), 0o755)
}

// updateFile is update.json in a state, behind the journal alone.
func (n *node) updateFile(s *nbd.State, p disk.Partition, upTo int) (string, error) {
	image, err := n.mended(s, p, upTo, "-y", "-E", "journal_only")
	if err != nil {
		return "", err
	}
	out, err := exec.Command("debugfs", "-R", "cat /lib/holdfast/update.json", image).Output()
	return string(out), err
}

// mended is an image of /var that e2fsck was run on.
func (n *node) mended(s *nbd.State, p disk.Partition, upTo int, how ...string) (image string, err error) {
	image = filepath.Join(n.dir, "var.ext4")
	if err := n.write(s, p, upTo, image); err != nil {
		return "", err
	}
	out, err := exec.Command("e2fsck", append(how, image)...).CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() <= 2 {
		err = nil // it mended something, as the journal is to be replayed
	}
	if err != nil {
		return "", fmt.Errorf("/var cannot be read: e2fsck: %w\n%s", err, out)
	}
	return image, nil
}

// write copies /var into a sparse file: what the log wrote of it, as there was
// nothing before.
func (n *node) write(s *nbd.State, p disk.Partition, upTo int, name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	type span struct{ from, to int64 }
	var spans []span
	for i := range upTo {
		if op := n.log.Op(i); op.Kind == nbd.Write && op.Off < p.Start+p.Size && p.Start < op.Off+op.Len {
			spans = append(spans, span{max(op.Off, p.Start), min(op.Off+op.Len, p.Start+p.Size)})
		}
	}
	slices.SortFunc(spans, func(a, b span) int { return int(min(max(a.from-b.from, -1), 1)) })
	for i := 0; i < len(spans); {
		x := spans[i]
		for ; i < len(spans) && spans[i].from <= x.to; i++ {
			x.to = max(x.to, spans[i].to)
		}
		if err == nil {
			err = copyRange(f, s, x.from, x.to-x.from, x.from-p.Start)
		}
	}
	return errors.Join(err, f.Truncate(p.Size), f.Close())
}

// outcome is how a node starts.
type outcome struct {
	runs int64
	mode install.Mode
	step install.Step // before the agent took it up
}

// takeUp has the agent of the release that boots take up the update.
func (n *node) takeUp(s *nbd.State, p disk.Partition, b boots, upTo int) (outcome, error) {
	first := b.normalized.Boots[b.normalized.First]
	root, err := n.extract(s, p, upTo)
	if err != nil {
		return outcome{}, err
	}
	store := filepath.Join(root, "var/lib/holdfast/store")
	layouts := []string{n.seed, store}
	all, refused := bundles.OpenLayout(layouts, n.trust)
	i := slices.IndexFunc(all, func(v *bundles.Verified) bool {
		return int64(v.Facts().Release) == first.Release && v.RootHash() == first.RootHash
	})
	o := outcome{runs: first.Release}
	if i < 0 {
		return o, fmt.Errorf("release %d boots, and is in no layout: %v", first.Release, refused)
	}
	missing, err := install.Missing(all[i], layouts, true)
	if err != nil || len(missing) > 0 {
		return o, fmt.Errorf("release %d boots, and %d of its blobs are missing: %w", first.Release, len(missing), err)
	}
	running := install.RefOf(all[i])
	state, err := install.ReadState(filepath.Join(root, update.StateFile))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return o, err // it is replaced whole
	}
	o.step = state.Step
	if err := n.audit(root, true); err != nil {
		return o, err
	}
	entries := filepath.Join(root, update.ESP, slot.EntryDir)
	if err := os.MkdirAll(entries, 0o755); err != nil {
		return o, err
	}
	for _, name := range b.names {
		if err := os.WriteFile(filepath.Join(entries, name), nil, 0o644); err != nil {
			return o, err
		}
	}
	rebooted := false
	m := update.Machine{
		Root: root, Store: store, Layouts: layouts, Now: func() time.Time { return time.Unix(1<<31-1, 0) },
		Progress: func(string, int64, int64) {},
		Releases: func() ([]*bundles.Verified, error) { return bundles.OpenLayout(layouts, n.trust) },
		Reboot:   func(context.Context) error { rebooted = true; return nil },
	}
	a := m.Actions(running, nil)
	a.Check = func(_ context.Context, r install.Ref) error {
		for _, x := range b.normalized.Boots {
			if x.RootHash == r.RootHash && x.Err != nil {
				return x.Err
			}
		}
		return nil
	}
	a.WriteEntry = func(_ context.Context, r install.Ref) error {
		return os.WriteFile(filepath.Join(entries, slot.TempName(int64(r.Release))), nil, 0o644)
	}
	o.mode, err = install.AtBoot(context.Background(), a, running)
	if err != nil {
		return o, err
	}
	return o, n.after(root, m, running, o, rebooted)
}

// after checks what AtBoot left.
func (n *node) after(root string, m update.Machine, running install.Ref, o outcome, rebooted bool) error {
	s, err := m.State(running)
	if err != nil {
		return err
	}
	if err := n.audit(root, false); err != nil {
		return err
	}
	as := fmt.Errorf("at step %q release %d starts as %s, and then is at %q with %d confirmed", o.step, o.runs, o.mode, s.Step, s.Confirmed.Release)
	entries, err := m.Actions(running, nil).Entries(context.Background())
	if err != nil {
		return err
	}
	_, own := entries[running.Release]
	switch {
	case o.mode == install.Normal && s.Step == install.Idle && s.Confirmed == running && own:
	case o.mode == install.Returned && s.Step == install.Idle && s.Confirmed == running && own && len(entries) == 1:
	case o.mode == install.OnTrial && s.Step == install.Trial && s.To == running && own:
	case o.mode == install.Rebooting && rebooted:
	default: // what was confirmed is sound, so none falls back
		return as
	}
	return nil
}

func (n *node) audit(root string, tornIsFine bool) error {
	f, err := os.Open(filepath.Join(root, update.AuditFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if err := install.VerifyAudit(f); err != nil && !(tornIsFine && errors.Is(err, install.ErrTorn)) {
		return fmt.Errorf("audit log: %w", err)
	}
	return nil
}
