package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"holdfast.dev/holdfast/bundles/backup"
	"holdfast.dev/holdfast/qemu-tests/lab"
)

func (a *app) labBackup() *cobra.Command {
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "backup FILE",
		Short: "Back the lab's site up, as onto a stick",
		Long: `Plugs an empty stick for backups into the lab's machine, has its agent write a
backup of the site onto it, and copies that to FILE. It is encrypted to the recovery
keys of the release; "holdfast lab up --fresh --restore FILE" brings it back.`,
		Example: "  holdfast lab backup ../mysite.holdfast-backup",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			vm, err := lab.Open(a.labDir())
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(c.Context(), timeout)
			defer cancel()
			doc, err := vm.Backup(ctx, args[0])
			if err != nil {
				return err
			}
			if a.json {
				a.event(map[string]any{"event": "backup", "file": args[0], "backup": doc})
				return nil
			}
			var b struct {
				Code  string  `json:"code"`
				Bytes int64   `json:"bytes"`
				State int64   `json:"state"`
				Held  float64 `json:"held"`
			}
			if err := json.Unmarshal(doc, &b); err != nil {
				return fmt.Errorf("cannot read what the node answered: %w", err)
			}
			a.printf("%s: %s, of %s of state; the site stood still for %.1f s\ncode: %s\n", args[0], size(b.Bytes), size(b.State), b.Held, b.Code)
			return nil
		},
	}
	c.Flags().DurationVar(&timeout, "timeout", 30*time.Minute, "give up after that long")
	return c
}

// confirmRestore confirms to the node that it is to restore the backup in a
// file.
func (a *app) confirmRestore(ctx context.Context, vm *lab.VM, file string, timeout time.Duration) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("cannot read the backup: %w", err)
	}
	defer f.Close()
	code, err := backup.CodeOf(f)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	a.printf("waiting for the node, to have it restore %s\n", code)
	if err := vm.Restore(ctx, code); err != nil {
		return err
	}
	a.printf("it is restored, and the site starts from it\n")
	return nil
}

func (a *app) backupCmd() *cobra.Command {
	c := &cobra.Command{
		Use:     "backup",
		Short:   "Look at a backup of a site",
		Example: "  holdfast backup inspect mysite-1-20261127T120000Z.holdfast-backup",
	}
	var key string
	inspect := &cobra.Command{
		Use:   "inspect FILE",
		Short: "Read a backup to its end, and say what it is of",
		Long: `Opens the backup with the site's recovery key, checks every byte of it, and prints
of what and when it is, and its code: the one that the node showed when it made it.`,
		Example: "  holdfast backup inspect --key keys/recovery.key mysite-1-20261127T120000Z.holdfast-backup",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if key == "" {
				key = filepath.Join(a.dir, backup.PrivateKey)
			}
			return a.inspectBackup(args[0], key)
		},
	}
	inspect.Flags().StringVar(&key, "key", "", "the private recovery key (default: "+backup.PrivateKey+" of the site)")
	c.AddCommand(inspect)
	return c
}

func (a *app) inspectBackup(name, key string) error {
	k, err := os.Open(key)
	if err != nil {
		return fmt.Errorf("cannot read the recovery key: %w\nhint: --key says where it is", err)
	}
	defer k.Close()
	with, err := backup.ParseIdentities(k)
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("cannot read the backup: %w", err)
	}
	defer f.Close()
	h, code, err := backup.Check(f, with)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if a.json {
		a.event(map[string]any{"event": "backup", "file": name, "code": code, "header": h})
		return nil
	}
	a.printf("site %s, release %d, zone %s, node %s (%s), %s %s\nas it was at %s: %d files, %s\ncode: %s\n",
		h.Site, h.Release, h.Zone, h.Node, h.Address, h.Engine, h.EngineVersion, h.Time.Format(time.RFC3339), h.Files, size(h.Bytes), code)
	return nil
}
