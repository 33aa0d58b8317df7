package verity_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"holdfast.dev/holdfast/image/verity"
)

func random(blocks int) []byte {
	b := make([]byte, blocks*verity.BlockSize)
	r := rand.NewChaCha8([32]byte{byte(blocks)})
	_, _ = r.Read(b)
	return b
}

var options = verity.Options{
	Salt: []byte("0123456789abcdef0123456789abcdef"),
	UUID: [16]byte{0x11, 0x22, 0x33, 15: 0xff},
}

func TestSameAsVeritysetup(t *testing.T) {
	veritysetup, err := exec.LookPath("veritysetup")
	if err != nil {
		t.Skip("no veritysetup on this host")
	}
	for _, blocks := range []int{1, 2, 127, 128, 129, 128*128 - 1, 128 * 128, 128*128 + 1} {
		t.Run(strconv.Itoa(blocks), func(t *testing.T) {
			data := random(blocks)
			var got bytes.Buffer
			root, err := verity.Write(&got, bytes.NewReader(data), int64(len(data)), options)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			d, h := filepath.Join(dir, "data"), filepath.Join(dir, "hash")
			if err := os.WriteFile(d, data, 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command(veritysetup, "format", "--salt", hex.EncodeToString(options.Salt),
				"--uuid", "11223300-0000-0000-0000-0000000000ff", d, h).CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			want, err := os.ReadFile(h)
			if err != nil {
				t.Fatal(err)
			}
			// The tool ends the file behind what it wrote last.
			want = append(want, make([]byte, max(0, got.Len()-len(want)))...)
			if !bytes.Equal(got.Bytes(), want) {
				t.Errorf("%d bytes differ from the tool's %d", got.Len(), len(want))
			}
			m := regexp.MustCompile(`Root hash:\s+([0-9a-f]{64})`).FindSubmatch(out)
			if m == nil || string(m[1]) != hex.EncodeToString(root[:]) {
				t.Errorf("root hash %x\n%s", root, out)
			}
			if n := verity.Size(int64(len(data))); n != int64(got.Len()) {
				t.Errorf("Size says %d, written %d", n, got.Len())
			}
		})
	}
}

func TestVerifySeesEveryChange(t *testing.T) {
	data := random(300)
	var w bytes.Buffer
	root, err := verity.Write(&w, bytes.NewReader(data), int64(len(data)), options)
	if err != nil {
		t.Fatal(err)
	}
	tree := w.Bytes()
	check := func() error {
		return verity.Verify(bytes.NewReader(data), bytes.NewReader(tree), int64(len(data)), root)
	}
	if err := check(); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string]*byte{
		"first data byte": &data[0], "last data byte": &data[len(data)-1],
		"magic": &tree[0], "version": &tree[8], "algorithm": &tree[33], "data blocks": &tree[72], "salt size": &tree[81],
		"salt": &tree[90], "behind the superblock": &tree[2000], "top": &tree[4096], "leaf": &tree[8192], "padding": &tree[len(tree)-1],
	} {
		*b ^= 1
		if err := check(); !errors.Is(err, verity.ErrMismatch) {
			t.Errorf("%s changed: got %v", name, err)
		}
		*b ^= 1
	}
	tree = tree[:len(tree)-1]
	if err := check(); err == nil || errors.Is(err, verity.ErrMismatch) {
		t.Errorf("short tree: got %v", err)
	}
}

func TestRefuses(t *testing.T) {
	long := verity.Options{Salt: make([]byte, verity.MaxSalt+1)}
	for name, c := range map[string]struct {
		size int64
		o    verity.Options
	}{
		"nothing": {0, options}, "negative": {-4096, options}, "part of a block": {4097, options},
		"more than there is": {3 * 4096, options}, "long salt": {4096, long},
	} {
		var w bytes.Buffer
		if _, err := verity.Write(&w, bytes.NewReader(random(2)), c.size, c.o); err == nil || w.Len() != 0 {
			t.Errorf("%s: error %v, %d bytes written", name, err, w.Len())
		}
	}
}

func FuzzVerify(f *testing.F) {
	data := random(2)
	var w bytes.Buffer
	root, err := verity.Write(&w, bytes.NewReader(data), int64(len(data)), options)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(w.Bytes())
	f.Fuzz(func(t *testing.T, tree []byte) {
		err := verity.Verify(bytes.NewReader(data), bytes.NewReader(tree), int64(len(data)), root)
		if err == nil && !bytes.HasPrefix(tree, w.Bytes()) {
			t.Error("accepted another tree")
		}
	})
}
