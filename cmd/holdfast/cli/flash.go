package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles"
	"holdfast.dev/holdfast/image/flash"
	"holdfast.dev/holdfast/signing"
)

// varMin is what a node needs behind the image for its writable partition, as
// image/files/usr/lib/repart.d/60-var.conf has it, with a MiB for its table.
const varMin = 8<<30 + 1<<20

// maxSigned bounds a signed statement that is read.
const maxSigned = 1 << 20

// flashFlags are the flags of flash.
type flashFlags struct {
	policy, zone, serial, receipt string
	min                           uint64
	list, yes                     bool
}

// Receipt is what flash leaves for the site's records.
type Receipt struct {
	Device   flash.Device `json:"device"` // as it was found
	Image    string       `json:"image"`  // without its directory
	Digest   store.Digest `json:"digest"` // as its statement has it
	Size     int64        `json:"size"`
	Name     string       `json:"name"`
	Release  uint64       `json:"release"`
	Zone     string       `json:"zone"`
	Index    string       `json:"index"` // digest of the release index
	SignedBy []Signer     `json:"signedBy"`
	Result   flash.Result `json:"result"`
	Started  time.Time    `json:"started"`
	Seconds  float64      `json:"seconds"` // with reading the image before, without waiting for an answer
	Version  string       `json:"version"` // of holdfast
}

// Signer is a key that counted.
type Signer struct {
	ID          string `json:"id"`
	Name        string `json:"name"`
	Development bool   `json:"development,omitempty"`
}

func (a *app) flashCmd() *cobra.Command {
	var f flashFlags
	c := &cobra.Command{
		Use:   "flash IMAGE DEVICE | flash --list [IMAGE]",
		Short: "Write a verified raw image onto a disk, and read it back",
		Long: `Checks IMAGE against IMAGE.sig, the statement signed with its release, writes it
onto a whole disk and compares all of it with what the disk gives back. Disks that
are mounted or otherwise in use, and disks too small, are refused.

Until the last write the disk has no partition table: one whose writing was
interrupted does not boot, and the same command again is the remedy.

--list shows all disks, what they hold, and why they may not be written.`,
		Example: `  holdfast flash --list
  holdfast flash out/mysite-1.raw /dev/sdb
  holdfast flash --yes --serial S4EVNX0N out/mysite-1.raw /dev/sdb`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case f.list && len(args) > 1:
				return errors.New("--list takes at most an image")
			case !f.list && len(args) != 2:
				return errors.New("name an image and a device")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			if f.list {
				return a.listDevices(args)
			}
			return a.flash(c.Context(), args[0], args[1], f)
		},
	}
	c.Flags().BoolVar(&f.list, "list", false, "show the disks instead; with IMAGE also whether it fits")
	c.Flags().BoolVar(&f.yes, "yes", false, "do not ask")
	c.Flags().StringVar(&f.serial, "serial", "", "refuse a disk with another serial")
	c.Flags().StringVar(&f.receipt, "receipt", "", "where to write the receipt (default: beside IMAGE)")
	c.Flags().StringVar(&f.policy, "trust", "", "the trust policy (default: trust/policy.json of the site)")
	c.Flags().StringVar(&f.zone, "zone", "", "the zone that the image must be for (default: the site's)")
	c.Flags().Uint64Var(&f.min, "min-release", 0, "refuse a lower release number")
	return c
}

// flash is the job: statement, device, image, consent, write, receipt.
func (a *app) flash(ctx context.Context, name, path string, f flashFlags) error {
	if in, ok := a.Stdin.(*os.File); !f.yes && (!ok || !term.IsTerminal(int(in.Fd()))) {
		return errUsage{fmt.Errorf("nobody is at a terminal to confirm that %s will be erased\nhint: --yes confirms, best with --serial", path)}
	}
	trust, err := a.trust(f.policy, f.zone, f.min)
	if err != nil {
		return err
	}
	st, keys, err := readStatement(name, trust)
	d, err2 := a.findDevice(path, flash.Need{Size: st.Size + varMin, Serial: f.serial, Image: name})
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	receipt, err := reserveReceipt(name, d, f.receipt)
	if err != nil {
		return err
	}
	defer os.Remove(receipt + ".partial")
	started := a.Now()
	done, report := a.step("verify image"), a.progress("verify image")
	im, err := readImage(ctx, name, st, func(n, total int64) { report(n, total, filepath.Base(name)) })
	if err != nil {
		return fmt.Errorf("%w; nothing was written", err)
	}
	done(fmt.Sprintf("release %d of %s for zone %s", st.Release, st.Name, st.Zone))
	took := a.Now().Sub(started)
	if err := a.consent(ctx, d, path, st, f.yes); err != nil {
		return err
	}
	again := a.Now()
	result, err := a.writeDevice(ctx, d, im)
	if err != nil {
		return err
	}
	r := Receipt{
		Device: d, Image: filepath.Base(name), Digest: store.Digest(st.Digest), Size: im.Size,
		Name: st.Name, Release: st.Release, Zone: st.Zone, Index: st.Index,
		Result: result, Started: started.UTC(), Seconds: (took + a.Now().Sub(again)).Seconds(), Version: Version,
	}
	for _, k := range keys.Keys {
		r.SignedBy = append(r.SignedBy, Signer{k.ID, k.Name, k.Development})
	}
	if err := writeReceipt(receipt, r); err != nil {
		return fmt.Errorf("%s was written and is right, but: %w", d.Path, err)
	}
	if a.json {
		a.event(map[string]any{"event": "flashed", "receipt": r, "file": receipt})
		return nil
	}
	a.printf("flashed: %s\n  release %d of %s for zone %s, %s\n  %s written, %s of zeros skipped, all of it read back and right\n  receipt: %s\n",
		d, st.Release, st.Name, st.Zone, st.Digest, size(result.Written), size(result.Skipped), receipt)
	return nil
}

// readStatement verifies what was signed about an image.
func readStatement(name string, trust bundles.Trust) (signing.Statement, signing.Accepted, error) {
	fail := func(err error) (signing.Statement, signing.Accepted, error) {
		return signing.Statement{}, signing.Accepted{}, fmt.Errorf("cannot verify %s: %w", name, err)
	}
	f, err := os.Open(name + ".sig")
	if errors.Is(err, fs.ErrNotExist) {
		return fail(fmt.Errorf("%w: it has no signed statement, %s.sig\nhint: the statement is made beside the image, and travels with it", bundles.ErrRefused, filepath.Base(name)))
	}
	if err != nil {
		return fail(err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSigned))
	if err != nil {
		return fail(err)
	}
	st, keys, err := signing.VerifyStatement(trust.Policy, trust.Zone, b)
	if err != nil {
		return fail(fmt.Errorf("%w: %w", bundles.ErrRefused, err))
	}
	if st.Release < trust.MinRelease {
		return fail(fmt.Errorf("%w: release %d is lower than %d", bundles.ErrRefused, st.Release, trust.MinRelease))
	}
	if err := checkSize(name, st); err != nil {
		return fail(err)
	}
	return st, keys, nil
}

func checkSize(name string, st signing.Statement) error {
	fi, err := os.Stat(name)
	if err != nil {
		return err
	}
	if fi.Size() != st.Size {
		return fmt.Errorf("%w: it has %d bytes, the statement says %d", bundles.ErrRefused, fi.Size(), st.Size)
	}
	return nil
}

// findDevice reports all that speaks against a device at once.
func (a *app) findDevice(path string, need flash.Need) (flash.Device, error) {
	d, err := flash.System{}.Find(path, need)
	if err != nil {
		return d, err
	}
	var errs []error
	for _, why := range d.Refusals {
		errs = append(errs, fmt.Errorf("cannot flash %s: it %s", d.Path, why))
	}
	if len(errs) > 0 {
		errs = append(errs, errors.New(`hint: "holdfast flash --list" shows the disks that may be written`))
	}
	return d, errors.Join(errs...)
}

// readImage reads the image once and compares it with its statement: by the
// digest of its pieces, or where there is none by that of the whole.
func readImage(ctx context.Context, name string, st signing.Statement, report flash.Report) (*flash.Image, error) {
	whole := st.Pieces.Size != flash.PieceSize
	im, err := flash.ReadImage(ctx, name, whole, report)
	if err != nil {
		return nil, err
	}
	what, got, want := "digest of pieces", im.Pieces, st.Pieces.Digest
	if whole {
		what, got, want = "digest", im.Whole, st.Digest
	}
	if string(got) != want || im.Size != st.Size {
		return nil, fmt.Errorf("cannot verify %s: %w: it has %d bytes and the %s %s, the statement says %d bytes, %s", name, bundles.ErrRefused, im.Size, what, got, st.Size, want)
	}
	return im, nil
}

// consent asks a person at a terminal to name the disk that will be lost.
func (a *app) consent(ctx context.Context, d flash.Device, path string, st signing.Statement, yes bool) error {
	if yes {
		return nil
	}
	name, word := d.Serial, "serial"
	if name == "" {
		name, word = path, "path"
	}
	fmt.Fprintf(a.Stderr, "%s, %s, will be erased; it holds: %s\nand release %d of %s written.\nType its %s to go on (%s): ",
		d, size(d.Size), d.Content, st.Release, st.Name, word, name)
	answer := make(chan string, 1)
	go func() {
		line, err := bufio.NewReader(io.LimitReader(a.Stdin, 4096)).ReadString('\n')
		if err != nil {
			line = ""
		}
		answer <- strings.TrimSpace(line)
	}()
	select {
	case got := <-answer:
		if got == "" || got != d.Serial && got != d.Path && got != path {
			return fmt.Errorf("not confirmed: %q names another disk; nothing was written", got)
		}
		return nil
	case <-ctx.Done():
		fmt.Fprintln(a.Stderr)
		return fmt.Errorf("%w; nothing was written", ctx.Err())
	}
}

func (a *app) writeDevice(ctx context.Context, d flash.Device, im *flash.Image) (flash.Result, error) {
	done := func(string) {}
	r, err := flash.Write(ctx, d, im, flash.Options{
		Now: a.Now,
		Report: func(step string) flash.Report {
			done(d.Path)
			done = a.step(step)
			report := a.progress(step)
			return func(n, total int64) { report(n, total, d.Path) }
		},
	})
	if err == nil {
		done(d.Path)
	}
	return r, err
}

// reserveReceipt sees, before a disk is erased, that its receipt can be
// written.
func reserveReceipt(image string, d flash.Device, name string) (string, error) {
	if name == "" {
		id := d.Serial
		if id == "" {
			id = filepath.Base(d.Path)
		}
		id = strings.Map(func(r rune) rune {
			if strings.ContainsRune("/\\ :*?\"<>|", r) {
				return '_'
			}
			return r
		}, id)
		name = image + "." + id + ".receipt.json"
	}
	f, err := os.Create(name + ".partial")
	if err != nil {
		return "", fmt.Errorf("cannot write receipt: %w\nhint: --receipt names another place", err)
	}
	return name, f.Close()
}

func writeReceipt(name string, r Receipt) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot write receipt: %w", err)
	}
	f, err := os.Create(name + ".partial")
	if err != nil {
		return fmt.Errorf("cannot write receipt: %w", err)
	}
	_, err = f.Write(append(b, '\n'))
	if err := errors.Join(err, f.Sync(), f.Close(), os.Rename(name+".partial", name)); err != nil {
		return fmt.Errorf("cannot write receipt: %w", err)
	}
	return nil
}

// listDevices shows the disks there are.
func (a *app) listDevices(args []string) error {
	need := flash.Need{}
	if len(args) == 1 {
		fi, err := os.Stat(args[0])
		if err != nil {
			return fmt.Errorf("cannot read image: %w", err)
		}
		need = flash.Need{Size: fi.Size() + varMin, Image: args[0]}
	}
	devices, err := flash.System{}.List(need)
	if err != nil {
		return err
	}
	for _, d := range devices {
		if a.json {
			a.event(map[string]any{"event": "device", "device": d, "usable": d.Usable()})
			continue
		}
		kind := "fixed"
		if d.Removable {
			kind = "removable"
		}
		a.printf("%s\n  %s, %s\n  holds %s\n", d, size(d.Size), kind, d.Content)
		for _, why := range d.Refusals {
			a.printf("  no: %s\n", why)
		}
		if d.Usable() {
			a.printf("  may be written\n")
		}
	}
	if len(devices) == 0 && !a.json {
		a.printf("no disks\n")
	}
	return nil
}
