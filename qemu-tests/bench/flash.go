package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/image/flash"
	"holdfast.dev/holdfast/signing"
)

// flashes compares flash with dd for an image without a zero, and with bmaptool
// for the site's own, on a loop device that passes direct I/O on. Each writes
// five times, in turn, and the medians count.
func (b bencher) flashes(ctx context.Context, t *table) error {
	if os.Getuid() != 0 {
		t.add("flash", "–", "–", "needs root, for a loop device")
		return nil
	}
	sparse := filepath.Join(b.site, "out", "bench-1.raw")
	fi, err := os.Stat(sparse)
	if err != nil {
		return err
	}
	disk := filepath.Join(b.dir, "disk")
	dev, err := loopOver(disk, fi.Size()+9<<30)
	if err != nil {
		t.add("flash", "–", "–", err.Error())
		return nil
	}
	defer func() { _, _, _ = run(nil, "losetup", "-d", dev); _ = os.Remove(disk) }()
	full := filepath.Join(b.dir, "full.raw")
	defer os.Remove(full)
	if err := b.fullImage(ctx, full, 1<<30); err != nil {
		return err
	}
	if err := b.flash(t, "full", full, dev, []string{"dd", "bs=4M", "oflag=direct", "if=" + full, "of=" + dev}, "aim: at most 1.05", ""); err != nil {
		return err
	}
	if _, err := exec.LookPath("bmaptool"); err != nil {
		t.add("flash of a sparse image", "–", "–", "bmaptool is not installed")
		return nil
	}
	bmap := filepath.Join(b.dir, "bmap")
	if _, _, err := run(nil, "bmaptool", "create", "-o", bmap, sparse); err != nil {
		return err
	}
	return b.flash(t, "sparse", sparse, dev, []string{"bmaptool", "-q", "copy", "--bmap", bmap, sparse, dev}, "aim: less than 1", "aim: less than 1")
}

func loopOver(name string, size int64) (dev string, err error) {
	f, err := os.Create(name)
	if err != nil {
		return "", err
	}
	if err := f.Truncate(size); err != nil {
		return "", err
	}
	if err := f.Close(); err != nil {
		return "", err
	}
	_, out, err := run(nil, "losetup", "--find", "--show", "--direct-io=on", name)
	return strings.TrimSpace(out), err
}

// fullImage makes an image of random bytes, with its signed statement.
func (b bencher) fullImage(ctx context.Context, name string, size int64) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.CopyN(f, rand.NewChaCha8([32]byte{}), size); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	im, err := flash.ReadImage(ctx, name, true, nil)
	if err != nil {
		return err
	}
	key, err := signing.LoadPrivateKey(filepath.Join(b.site, "keys", "release.key"))
	if err != nil {
		return err
	}
	st, err := signing.SignStatement(signing.Statement{
		Name: "bench", Release: 1, Zone: signing.ZoneOfficial, File: filepath.Base(name),
		Digest: string(im.Whole), Size: size, Index: string(store.FromBytes(nil)),
		Pieces: signing.Pieces{Size: flash.PieceSize, Digest: string(im.Pieces)},
	}, key)
	if err != nil {
		return err
	}
	return os.WriteFile(name+".sig", st, 0o644)
}

// flash times holdfast and another tool in turn: its writing, and the command
// from beginning to end.
func (b bencher) flash(t *table, kind, image, dev string, other []string, aims ...string) error {
	receipt := filepath.Join(b.dir, "receipt.json")
	var write, whole, theirs []time.Duration
	var r struct {
		Size   int64
		Result struct {
			Written                    int64
			ClearSeconds, WriteSeconds float64
		}
	}
	for range 5 {
		u, _, err := run(nil, other[0], other[1:]...)
		if err != nil {
			return err
		}
		theirs = append(theirs, u.wall)
		if u, _, err = b.holdfast(nil, "flash", "--yes", "--receipt", receipt, image, dev); err != nil {
			return err
		}
		whole = append(whole, u.wall)
		doc, err := os.ReadFile(receipt)
		if err != nil {
			return err
		}
		if err := json.Unmarshal(doc, &r); err != nil {
			return err
		}
		write = append(write, time.Duration((r.Result.ClearSeconds+r.Result.WriteSeconds)*1e9))
		fmt.Fprintf(os.Stderr, "%s %v, holdfast %v, writing %v\n", other[0], theirs[len(theirs)-1], u.wall, write[len(write)-1])
	}
	reference := median(theirs)
	for i, what := range []string{"until written and flushed", "with verifying before and reading back after"} {
		ours := median([][]time.Duration{write, whole}[i])
		note := fmt.Sprintf("%.2f of its time", ours.Seconds()/reference.Seconds())
		if aims[i] != "" {
			note += " (" + aims[i] + ")"
		}
		t.add(fmt.Sprintf("flash of a %s image, %d MB with %d MB of data, %s; and %s", kind, r.Size/1e6, r.Result.Written/1e6, what, other[0]),
			fmt.Sprintf("%.2f s", ours.Seconds()), fmt.Sprintf("%.2f s", reference.Seconds()), note)
	}
	return nil
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}
