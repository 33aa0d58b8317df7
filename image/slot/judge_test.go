package slot_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast.dev/holdfast/image/disk"
	"holdfast.dev/holdfast/image/guard"
	"holdfast.dev/holdfast/image/rootfs"
	"holdfast.dev/holdfast/image/slot"
	"holdfast.dev/holdfast/image/uki"
	"holdfast.dev/holdfast/image/verity"
	"holdfast.dev/holdfast/signing/authenticode"
)

type signer struct {
	cert *x509.Certificate
	key  *rsa.PrivateKey
}

// signers are the site's key and a stranger's.
var signers = sync.OnceValues(func() (site, stranger signer) {
	create := func(name string) signer {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Unix(1, 0)}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
		if err != nil {
			panic(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			panic(err)
		}
		return signer{cert, key}
	}
	return create("site"), create("stranger")
})

func db() []*x509.Certificate {
	site, _ := signers()
	return []*x509.Certificate{site.cert}
}

func sign(t testing.TB, program []byte, s signer) []byte {
	t.Helper()
	b, err := authenticode.Sign(program, s.cert, s.key)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// stub makes a PE program of one section with room for more.
func stub() []byte {
	b := make([]byte, 0x600)
	le := binary.LittleEndian
	copy(b, "MZ")
	le.PutUint32(b[60:], 64)
	copy(b[64:], "PE\x00\x00")
	coff, opt, h := b[68:], b[88:], b[88+240:]
	le.PutUint16(coff[0:], 0x8664)
	le.PutUint16(coff[2:], 1)
	le.PutUint16(coff[16:], 240)
	le.PutUint16(coff[18:], 0x22e)
	le.PutUint16(opt[0:], 0x20b)
	le.PutUint32(opt[32:], 0x1000)
	le.PutUint32(opt[36:], 0x200)
	le.PutUint32(opt[56:], 0x2000)
	le.PutUint32(opt[60:], 0x400)
	le.PutUint16(opt[68:], 10)
	le.PutUint32(opt[108:], 16)
	copy(h, ".text")
	le.PutUint32(h[8:], 5)
	le.PutUint32(h[12:], 0x1000)
	le.PutUint32(h[16:], 0x200)
	le.PutUint32(h[20:], 0x400)
	copy(b[0x400:], "stub!")
	return b
}

const osRelease = "PRETTY_NAME=\"holdfast test\"\nID=debian\nVERSION_ID=\"13\"\n"

// kernel makes a release's unsigned kernel image.
func kernel(t testing.TB, release int64, rootHash, osrel string) []byte {
	t.Helper()
	cmdline := fmt.Sprintf("roothash=%s holdfast.release=%d gpt quiet", rootHash, release)
	b, err := uki.Assemble(stub(), uki.Sections(osrel, cmdline, "6.12", stub(), bytes.Repeat([]byte{byte(release)}, 300_000)))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// node is what the disk of a test has.
type node struct {
	a, b  root
	esp   map[string][]byte
	partB bool // slot b has b's identifiers
}

// twoReleases is a node whose second release is on trial.
func twoReleases(t testing.TB) node {
	t.Helper()
	site, _ := signers()
	n := node{a: newRoot(t, 1, 300), b: newRoot(t, 2, 400), partB: true}
	n.esp = map[string][]byte{
		guard.Path:                     sign(t, guard.EFI(), site),
		guard.LoaderPath:               sign(t, stub(), site),
		"EFI/Linux/holdfast-1.efi":     sign(t, kernel(t, 1, n.a.hash, osRelease), site),
		"EFI/Linux/holdfast-2+3.efi":   sign(t, kernel(t, 2, n.b.hash, osRelease), site),
		"EFI/Linux/holdfast-3.new":     []byte("not whole"),
		"loader/loader.conf":           []byte("timeout 0\n"),
		"EFI/Linux/readme.txt":         []byte("x"),
		"EFI/Linux/not-a-program.efi":  []byte("x"),
		"EFI/Linux/directory.efi/file": []byte("x"),
	}
	return n
}

func writeNode(t testing.TB, n node) *os.File {
	t.Helper()
	tree := rootfs.New(1)
	for name, b := range n.esp {
		if err := tree.WriteFile(name, b, 0o644, 1); err != nil {
			t.Fatal(err)
		}
	}
	esp := filepath.Join(t.TempDir(), "esp")
	if err := disk.WriteESP(esp, disk.MinESPSize, tree, 1); err != nil {
		t.Fatal(err)
	}
	l := layout(t, n.a)
	l.Partitions[0].Content = disk.FromFile(esp)
	l.Partitions[3].Content = func(w io.WriterAt) error { _, err := w.WriteAt(n.b.data, 0); return err }
	l.Partitions[4].Content = func(w io.WriterAt) error { _, err := w.WriteAt(n.b.tree, 0); return err }
	f := newDisk(t, l)
	if n.partB {
		size, _ := slot.Size(f)
		if err := slot.SetGUIDs(f, size, slotsOf(t, f)[1], n.b.hash); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// outcome tells a verdict in a line.
func outcome(t testing.TB, r io.ReaderAt, size int64, m *slot.Memo) string {
	t.Helper()
	v, err := slot.Judge(r, size, db(), m)
	if err != nil {
		return "cannot judge"
	}
	if v.Loader != nil {
		return "no loader"
	}
	var s []string
	for _, b := range v.Boots {
		how := "whole"
		if b.Err != nil {
			how = "fails"
		}
		s = append(s, b.Entry+" "+how)
	}
	out := strings.Join(s, ", ") + ": nothing"
	if v.First >= 0 {
		out = fmt.Sprintf("%s: %d after %d", strings.Join(s, ", "), v.Boots[v.First].Release, v.Failed)
	}
	return out
}

func TestJudge(t *testing.T) {
	site, stranger := signers()
	const e1, e2 = "EFI/Linux/holdfast-1.efi", "EFI/Linux/holdfast-2+3.efi"
	rename := func(n *node, from, to string) { n.esp[to] = n.esp[from]; delete(n.esp, from) }
	flip := func(n *node, name string, at int) {
		n.esp[name] = bytes.Clone(n.esp[name])
		n.esp[name][at] ^= 1
	}
	for _, c := range []struct {
		name   string
		change func(n *node)
		want   string
	}{
		{"trial", func(n *node) {}, "holdfast-2+3.efi whole, holdfast-1.efi whole: 2 after 0"},
		{"no tries left", func(n *node) { rename(n, e2, "EFI/Linux/holdfast-2+0-3.efi") }, "holdfast-1.efi whole, holdfast-2+0-3.efi whole: 1 after 0"},
		{"unsigned", func(n *node) { n.esp[e2] = kernel(t, 2, n.b.hash, osRelease) }, "holdfast-2+3.efi fails, holdfast-1.efi whole: 1 after 3"},
		{"a stranger's", func(n *node) { n.esp[e2] = sign(t, kernel(t, 2, n.b.hash, osRelease), stranger) }, "holdfast-2+3.efi fails, holdfast-1.efi whole: 1 after 3"},
		{"altered", func(n *node) { flip(n, e2, 100_000) }, "holdfast-2+3.efi fails, holdfast-1.efi whole: 1 after 3"},
		{"other tree", func(n *node) { n.b.tree = bytes.Clone(n.b.tree); n.b.tree[6000] ^= 1 }, "holdfast-2+3.efi fails, holdfast-1.efi whole: 1 after 3"},
		{"other data", func(n *node) { n.b.data = bytes.Clone(n.b.data); n.b.data[60000] ^= 1 }, "holdfast-2+3.efi fails, holdfast-1.efi whole: 1 after 3"},
		{"slot without its identifiers", func(n *node) { n.partB = false }, "holdfast-2+3.efi fails, holdfast-1.efi whole: 1 after 3"},
		{"none whole", func(n *node) { flip(n, e1, 100_000); flip(n, e2, 100_000) }, "holdfast-2+3.efi fails, holdfast-1.efi fails: nothing"},
		{"not counted, and fails", func(n *node) { flip(n, e2, 100_000); rename(n, e2, "EFI/Linux/holdfast-2.efi") }, "holdfast-2.efi fails, holdfast-1.efi whole: nothing"},
		{"both counted", func(n *node) { flip(n, e2, 100_000); rename(n, e1, "EFI/Linux/holdfast-1+2-1.efi") }, "holdfast-2+3.efi fails, holdfast-1+2-1.efi whole: 1 after 3"},
		{"no header: no entry", func(n *node) { n.esp[e2] = make([]byte, 300_000) }, "holdfast-1.efi whole: 1 after 0"},
		{"no entries", func(n *node) { delete(n.esp, e1); delete(n.esp, e2) }, ": nothing"},
		{"no root hash", func(n *node) { n.esp[e2] = sign(t, kernel(t, 2, "", osRelease), site) }, "holdfast-2+3.efi fails, holdfast-1.efi whole: 1 after 3"},
		// systemd-boot goes by the system's version before it goes by names.
		{"an older system", func(n *node) {
			n.esp[e2] = sign(t, kernel(t, 2, n.b.hash, strings.ReplaceAll(osRelease, "13", "12")), site)
		}, "holdfast-1.efi whole, holdfast-2+3.efi whole: 1 after 0"},
		{"tenth", func(n *node) { rename(n, e2, "EFI/Linux/holdfast-10+3.efi"); rename(n, e1, "EFI/Linux/holdfast-9.efi") }, "holdfast-10+3.efi whole, holdfast-9.efi whole: 2 after 0"},
		{"no guard", func(n *node) { delete(n.esp, guard.Path) }, "no loader"},
		{"guard altered", func(n *node) { flip(n, guard.Path, 0x400) }, "no loader"},
		{"loader unsigned", func(n *node) { n.esp[guard.LoaderPath] = stub() }, "no loader"},
	} {
		n := twoReleases(t)
		c.change(&n)
		f := writeNode(t, n)
		size, _ := slot.Size(f)
		if got := outcome(t, f, size, nil); got != c.want {
			t.Errorf("%s: %s\nwant %s", c.name, got, c.want)
		}
	}
}

func TestJudgeByBackupTable(t *testing.T) {
	f := writeNode(t, twoReleases(t))
	size, _ := slot.Size(f)
	if _, err := f.WriteAt(make([]byte, 512), 512); err != nil {
		t.Fatal(err)
	}
	if got := outcome(t, f, size, nil); !strings.HasSuffix(got, "2 after 0") {
		t.Error(got)
	}
	if which, err := slot.RepairTable(f, size); which != "primary" || err != nil {
		t.Errorf("%q, %v", which, err)
	}
	if _, err := f.WriteAt(make([]byte, 512), 512); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(make([]byte, 512), size-512); err != nil {
		t.Fatal(err)
	}
	if got := outcome(t, f, size, nil); got != "cannot judge" {
		t.Error(got)
	}
}

// counting counts the bytes that are read.
type counting struct {
	io.ReaderAt
	n *int
}

func (c counting) ReadAt(p []byte, off int64) (int, error) {
	*c.n += len(p)
	return c.ReaderAt.ReadAt(p, off)
}

// With a memo the verdict is that without one, whatever changes, and little is
// read twice.
func TestMemo(t *testing.T) {
	n := twoReleases(t)
	f := writeNode(t, n)
	b := readAll(t, f)
	size := int64(len(b))
	slots := slotsOf(t, f)
	rootB, treeB := slots[1].Root.Start, slots[1].Verity.Start
	uki := int64(bytes.Index(b, n.esp["EFI/Linux/holdfast-2+3.efi"][:0x400]))
	name := int64(bytes.Index(b, []byte("HOLDFA~2EFI")))
	if uki < 0 || name < 0 {
		t.Fatal("the entry is not where it is looked for")
	}
	m := &slot.Memo{}
	first := outcome(t, bytes.NewReader(b), size, m)
	for what, at := range map[string]int64{
		"data": rootB + 70_000, "tree": treeB + 4200, "superblock": treeB + 2000, "kernel": uki + 100_000, "guard": int64(bytes.Index(b, n.esp[guard.Path])) + 0x400,
		"short name": name, "behind the data": rootB + int64(len(n.b.data)), "table": 1024 + 3*128 + 16, "nothing": 0,
	} {
		for range 2 { // there and back
			b[at] ^= 1
			m.Changed(at, 1)
			read := 0
			got, want := outcome(t, counting{bytes.NewReader(b), &read}, size, m), outcome(t, bytes.NewReader(b), size, nil)
			if got != want {
				t.Errorf("%s: %s, without memo %s", what, got, want)
			}
			if read > 450_000 { // one kernel is the most
				t.Errorf("%s: %d bytes were read", what, read)
			}
		}
		if got := outcome(t, bytes.NewReader(b), size, m); got != first {
			t.Errorf("%s, and back: %s", what, got)
		}
	}
}

func TestTreeAgreesWithVerify(t *testing.T) {
	for _, blocks := range []int{1, 2, 128, 129, 300} {
		r := newRoot(t, 7, blocks)
		f := newDisk(t, layout(t, r))
		s := slotsOf(t, f)[0]
		raw, err := hex.DecodeString(r.hash)
		if err != nil {
			t.Fatal(err)
		}
		hash := [32]byte(raw)
		tree, err := verity.ReadTree(bytes.NewReader(r.tree), s.Root.Size, hash)
		if err != nil || tree.Blocks() != int64(blocks) {
			t.Fatalf("%d blocks: %v", blocks, err)
		}
		for i := range blocks {
			b := r.data[i*verity.BlockSize:][:verity.BlockSize]
			if err := tree.CheckBlock(int64(i), b); err != nil {
				t.Errorf("block %d: %v", i, err)
			}
			b[0] ^= 1
			if err := tree.CheckBlock(int64(i), b); !errors.Is(err, verity.ErrMismatch) {
				t.Errorf("altered block %d: %v", i, err)
			}
		}
		for at := range len(r.tree) {
			if at%509 != 0 {
				continue
			}
			bad := bytes.Clone(r.tree)
			bad[at] ^= 1
			if _, err := verity.ReadTree(bytes.NewReader(bad), s.Root.Size, hash); !errors.Is(err, verity.ErrMismatch) {
				t.Errorf("byte %d of the tree: %v", at, err)
			}
		}
	}
}

// patched is a disk of which some bytes are others.
type patched struct {
	base []byte
	at   map[int64]byte
}

func (p patched) ReadAt(b []byte, off int64) (int, error) {
	n, err := bytes.NewReader(p.base).ReadAt(b, off)
	for at, x := range p.at {
		if at >= off && at < off+int64(n) {
			b[at-off] = x
		}
	}
	return n, err
}

// Whatever the bytes, a judgement ends, nothing altered boots, and a memo that
// was told of the changes makes no difference.
func FuzzJudge(f *testing.F) {
	n := twoReleases(f)
	base := readAll(f, writeNode(f, n))
	size := int64(len(base))
	esp := int64(disk.Alignment)
	entry := int64(bytes.Index(base, []byte("HOLDFA~1EFI"))) / 512 * 512
	kernel := int64(bytes.Index(base, n.esp["EFI/Linux/holdfast-2+3.efi"][:0x400]))
	tree := int64(bytes.Index(base, n.b.tree[:4096]))
	places := []int64{512, size - 1024, esp, esp + 32*512, entry, kernel, tree, tree + 4096}
	m := &slot.Memo{}
	if got := outcome(f, bytes.NewReader(base), size, m); !strings.HasSuffix(got, "2 after 0") {
		f.Fatal(got)
	}
	f.Add([]byte{0, 0, 0, 0})
	f.Add([]byte{4, 0, 20, 0xe5, 5, 1, 0, 1})
	f.Add([]byte{0, 0, 0, 0, 1, 2, 0, 0})
	f.Fuzz(func(t *testing.T, changes []byte) {
		p := patched{base, map[int64]byte{}}
		for ; len(changes) >= 4; changes = changes[4:] {
			at := places[int(changes[0])%len(places)] + int64(changes[1])<<8 + int64(changes[2])
			if at < size {
				p.at[at] = changes[3]
				m.Changed(at, 1)
			}
		}
		got, want := outcome(t, p, size, m), outcome(t, p, size, nil)
		if got != want {
			t.Errorf("%s, without memo %s", got, want)
		}
		for at := range p.at {
			m.Changed(at, 1)
		}
	})
}

// The tool agrees that a slot is whole, or not.
func TestCheckAgainstVeritysetup(t *testing.T) {
	veritysetup, err := exec.LookPath("veritysetup")
	if err != nil {
		t.Skip("no veritysetup on this host")
	}
	r := newRoot(t, 3, 300)
	f := newDisk(t, layout(t, r))
	s := slotsOf(t, f)[0]
	for _, spoil := range []int64{-1, s.Root.Start + 4096*299, s.Verity.Start + 4096*2 + 17} {
		if spoil >= 0 {
			if _, err := f.WriteAt([]byte{0x55, 0xaa}, spoil); err != nil {
				t.Fatal(err)
			}
		}
		b, dir := readAll(t, f), t.TempDir()
		data, tree := filepath.Join(dir, "data"), filepath.Join(dir, "tree")
		if err := errors.Join(os.WriteFile(data, b[s.Root.Start:][:s.Root.Size], 0o600), os.WriteFile(tree, b[s.Verity.Start:][:s.Verity.Size], 0o600)); err != nil {
			t.Fatal(err)
		}
		out, toolErr := exec.Command(veritysetup, "verify", data, tree, r.hash).CombinedOutput()
		ours := slot.Check(context.Background(), f, s, r.hash)
		if (toolErr == nil) != (ours == nil) || (spoil < 0) != (ours == nil) {
			t.Errorf("byte %d: %v, the tool: %v %s", spoil, ours, toolErr, out)
		}
	}
}

// BenchmarkJudge has a disk of which nothing has changed.
func BenchmarkJudge(b *testing.B) {
	f := writeNode(b, twoReleases(b))
	size, _ := slot.Size(f)
	m := &slot.Memo{}
	for b.Loop() {
		if _, err := slot.Judge(f, size, db(), m); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCheck(b *testing.B) {
	r := newRoot(b, 3, 32000)
	l := layout(b, r)
	l.Partitions[1].Size, l.Partitions[2].Size = 128*mib, 2*mib
	f := newDisk(b, l)
	s := slotsOf(b, f)[0]
	b.SetBytes(int64(len(r.data)))
	for b.Loop() {
		if err := slot.Check(context.Background(), f, s, r.hash); err != nil {
			b.Fatal(err)
		}
	}
}
