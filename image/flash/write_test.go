package flash_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"holdfast.dev/holdfast/image/flash"
)

const mib = 1 << 20

// image makes an image file with data, zeros and holes, whose end is in the
// middle of a chunk.
func image(t *testing.T) (name string, content []byte) {
	t.Helper()
	name = filepath.Join(t.TempDir(), "image.raw")
	content = make([]byte, 24*mib+1536)
	r := rand.NewChaCha8([32]byte{1})
	for _, s := range [][2]int{{0, 40000}, {2 * mib, 5*mib + 7}, {6 * mib, 6*mib + 1}, {9*mib + 300000, 17 * mib}, {24*mib + 1000, 24*mib + 1536}} {
		_, _ = r.Read(content[s[0]:s[1]])
	}
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// The first half of the zeros are written, the others holes.
	_, err = f.Write(content[:12*mib])
	_, err2 := f.WriteAt(content[12*mib:17*mib], 12*mib)
	_, err3 := f.WriteAt(content[24*mib:], 24*mib)
	if err := errors.Join(err, err2, err3); err != nil {
		t.Fatal(err)
	}
	return name, content
}

func readImage(t *testing.T, name string) *flash.Image {
	t.Helper()
	im, err := flash.ReadImage(t.Context(), name, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	return im
}

func find(t *testing.T, dev string) flash.Device {
	t.Helper()
	d, err := flash.System{}.Find(dev, flash.Need{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func readDevice(t *testing.T, dev string) []byte {
	t.Helper()
	b, err := os.ReadFile(dev)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestReadImage(t *testing.T) {
	name, content := image(t)
	var pieces []byte
	for piece := range slices.Chunk(content, flash.PieceSize) {
		sum := sha256.Sum256(piece)
		pieces = append(pieces, sum[:]...)
	}
	for _, whole := range []bool{false, true} {
		want := [2]string{fmt.Sprintf("sha256:%x", sha256.Sum256(pieces))}
		if whole {
			want[1] = fmt.Sprintf("sha256:%x", sha256.Sum256(content))
		}
		im, err := flash.ReadImage(t.Context(), name, whole, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := [2]string{string(im.Pieces), string(im.Whole)}; got != want || im.Size != int64(len(content)) {
			t.Errorf("%q, %d bytes; want %q, %d", got, im.Size, want, len(content))
		}
	}
	for _, size := range []int64{0, 512, mib + 1} {
		if err := os.Truncate(name, size); err != nil {
			t.Fatal(err)
		}
		if _, err := flash.ReadImage(t.Context(), name, false, nil); err == nil {
			t.Errorf("an image of %d bytes is accepted", size)
		}
	}
	if _, err := flash.ReadImage(t.Context(), t.TempDir(), false, nil); err == nil {
		t.Error("a directory is accepted")
	}
}

func TestWrite(t *testing.T) {
	for _, c := range []struct {
		clearing string
		loop     func(*testing.T, string) string
	}{
		{"discard", func(t *testing.T, file string) string { return loop(t, file) }},
		{"zeroout", loopWithoutDiscard},
	} {
		t.Run(c.clearing, func(t *testing.T) {
			name, content := image(t)
			dev := c.loop(t, file(t, 32*mib, 0xff))
			r, err := flash.Write(t.Context(), find(t, dev), readImage(t, name), flash.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if r.Written+r.Skipped != int64(len(content)) || r.Skipped < 8*mib || r.Clearing != c.clearing || r.Mended != 0 {
				t.Errorf("result %+v of %d bytes", r, len(content))
			}
			got := readDevice(t, dev)
			if !bytes.Equal(got[:len(content)], content) {
				t.Error("the device has other bytes than the image")
			}
			if !bytes.Equal(got[len(content):31*mib], bytes.Repeat([]byte{0xff}, 31*mib-len(content))) {
				t.Error("what lies behind the image was changed")
			}
			if !bytes.Equal(got[31*mib:], make([]byte, mib)) {
				t.Error("the device's end was not wiped")
			}
		})
	}
}

// A device that takes the request to forget and keeps the bytes is written
// zeros.
func TestDiscardThatKeeps(t *testing.T) {
	name, content := image(t)
	backing := file(t, 32*mib, 0xff)
	dev := loop(t, backing)
	r, err := flash.Write(t.Context(), find(t, dev), readImage(t, name), flash.Options{Report: func(step string) flash.Report {
		return func(int64, int64) {
			if step == "clear" {
				spoil(t, backing, mib)
			}
		}
	}})
	if err != nil || r.Clearing != "write" || r.Skipped != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	if !bytes.Equal(readDevice(t, dev)[:len(content)], content) {
		t.Error("the device has other bytes than the image")
	}
}

// steps are those that Write reports, for an image with zeros.
var steps = []string{"clear", "write", "read back"}

func TestInterrupted(t *testing.T) {
	name, content := image(t)
	dev := loop(t, file(t, 32*mib, 0xff))
	im := readImage(t, name)
	for _, at := range steps {
		ctx, cancel := context.WithCancel(t.Context())
		_, err := flash.Write(ctx, find(t, dev), im, flash.Options{Report: func(step string) flash.Report {
			return func(int64, int64) {
				if step == at {
					cancel()
				}
			}
		}})
		cancel()
		var u *flash.Unfinished
		if !errors.As(err, &u) || !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "does not boot now") {
			t.Errorf("%s: %v", at, err)
		}
		unbootable(t, dev)
	}
	if _, err := flash.Write(t.Context(), find(t, dev), im, flash.Options{}); err != nil {
		t.Fatal("a repeat:", err)
	}
	if !bytes.Equal(readDevice(t, dev)[:len(content)], content) {
		t.Error("the device has other bytes than the image")
	}
}

// unbootable wants both ends of a device to be zeros.
func unbootable(t *testing.T, dev string) {
	t.Helper()
	b := readDevice(t, dev)
	if zero := make([]byte, mib); !bytes.Equal(b[:mib], zero) || !bytes.Equal(b[len(b)-mib:], zero) {
		t.Error("the device may boot")
	}
}

// A device that changes a byte is found out, and told where. What it only was
// to forget is mended.
func TestWrongBytes(t *testing.T) {
	name, content := image(t)
	for _, c := range []struct {
		at     int64
		mended bool
	}{{2 * mib, false}, {3*mib + 5, false}, {16 * mib, false}, {int64(len(content)) - 1, false}, {mib, true}, {20 * mib, true}} {
		backing := file(t, 32*mib, 0)
		dev := loop(t, backing)
		r, err := flash.Write(t.Context(), find(t, dev), readImage(t, name), flash.Options{Report: func(step string) flash.Report {
			if step == "read back" {
				spoil(t, backing, c.at)
			}
			return nil
		}})
		if c.mended {
			if err != nil || r.Mended == 0 || !bytes.Equal(readDevice(t, dev)[:len(content)], content) {
				t.Errorf("offset %d: %v, %+v", c.at, err, r)
			}
			continue
		}
		want := fmt.Sprintf("first between offsets %d and ", c.at&^(256<<10-1))
		if !errors.Is(err, flash.ErrDiffers) || !strings.Contains(err.Error(), want) {
			t.Errorf("offset %d: %v, want %q", c.at, err, want)
		}
		unbootable(t, dev)
	}
}

func spoil(t *testing.T, name string, at int64) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := []byte{0}
	if _, err := f.ReadAt(b, at); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

// An image that is changed after it was verified does not become bootable.
func TestImageChanged(t *testing.T) {
	dev := loop(t, file(t, 32*mib, 0))
	for what, change := range map[string]func(name string){
		"a byte":  func(name string) { spoil(t, name, 10*mib) },
		"shorter": func(name string) { _ = os.Truncate(name, 16*mib) },
	} {
		name, _ := image(t)
		im := readImage(t, name)
		change(name)
		var u *flash.Unfinished
		if _, err := flash.Write(t.Context(), find(t, dev), im, flash.Options{}); !errors.As(err, &u) {
			t.Errorf("%s: %v", what, err)
		}
		unbootable(t, dev)
	}
}

// What is refused is refused before anything is written.
func TestWriteRefuses(t *testing.T) {
	name, content := image(t)
	im := readImage(t, name)
	backing := file(t, len(content)+mib-512, 0xff)
	dev := loop(t, backing)
	d := find(t, dev)
	if _, err := flash.Write(t.Context(), d, im, flash.Options{}); err == nil || !strings.Contains(err.Error(), "the last MiB stays empty") {
		t.Error(err)
	}
	f, err := os.OpenFile(dev, os.O_RDONLY|os.O_EXCL, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d.Size += mib
	if _, err := flash.Write(t.Context(), d, im, flash.Options{}); err == nil || !strings.Contains(err.Error(), "busy") {
		t.Error(err)
	}
	f.Close()
	if _, err := flash.Write(t.Context(), d, im, flash.Options{}); err == nil || !strings.Contains(err.Error(), "another device") {
		t.Error(err)
	}
	d.Refusals = []string{"is mounted at /mnt"}
	if _, err := flash.Write(t.Context(), d, im, flash.Options{}); err == nil || !strings.Contains(err.Error(), "is mounted") {
		t.Error(err)
	}
	if b := readDevice(t, dev); !bytes.Equal(b, bytes.Repeat([]byte{0xff}, len(b))) {
		t.Error("something was written")
	}
}
