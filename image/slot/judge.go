package slot

import (
	"cmp"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"holdfast.dev/holdfast/image/disk"
	"holdfast.dev/holdfast/image/uki"
	"holdfast.dev/holdfast/signing/authenticode"
)

// What firmware starts, and what that starts.
const (
	guardPath  = "EFI/BOOT/BOOTX64.EFI"
	loaderPath = "EFI/systemd/systemd-bootx64.efi"
)

const (
	maxProgram = 16 << 20 // of guard and loader
	maxEntries = 64
)

// Verdict is what a disk does at power-on.
type Verdict struct {
	Loader error  // why the boot loader does not start, if it does not
	Boots  []Boot // what it can start, in the order in which it would
	First  int    // index in Boots of what comes up whole in the end, -1 for nothing
	Failed int    // boots before that one which fail, each at the cost of a try
}

// Boot is a boot entry and what comes of it.
type Boot struct {
	Entry    string // file name
	Release  int64  // as its signed command line has it; so is RootHash
	RootHash string
	Err      error // why it does not come up, if it does not
}

// Judge reads a disk of size bytes as firmware with the certificates in db,
// guard, boot loader, unified kernel image and initial RAM disk do, and says
// what would boot. The slot of every entry is read whole, as the running system
// does only little by little. An error means that the disk has no partition
// table, slots or EFI system partition that can be read; then nothing boots.
//
// m, which may be nil, makes the next judgement of the same disk quick.
func Judge(r io.ReaderAt, size int64, db []*x509.Certificate, m *Memo) (Verdict, error) {
	v, err := judge(r, size, db, cmp.Or(m, &Memo{}))
	if err != nil {
		return Verdict{First: -1}, fmt.Errorf("cannot judge disk: %w", err)
	}
	return v, nil
}

func judge(r io.ReaderAt, size int64, db []*x509.Certificate, m *Memo) (Verdict, error) {
	parts, err := disk.ReadGPT(r, size)
	if err != nil {
		return Verdict{}, err
	}
	slots, err := Slots(parts)
	if err != nil {
		return Verdict{}, err
	}
	i := slices.IndexFunc(parts, func(p disk.Partition) bool { return p.TypeGUID == disk.TypeESP })
	if i < 0 {
		return Verdict{}, errors.New("no EFI system partition")
	}
	esp, err := openFAT(io.NewSectionReader(r, parts[i].Start, parts[i].Size), parts[i].Size)
	if err != nil {
		return Verdict{}, fmt.Errorf("EFI system partition: %w", err)
	}
	d := &view{r, slots, esp, parts[i].Start, db, m}
	v := Verdict{First: -1, Loader: errors.Join(d.checkLoader(guardPath), d.checkLoader(loaderPath))}
	found, err := d.entries()
	if err != nil {
		v.Loader = errors.Join(v.Loader, err)
	}
	for _, f := range found {
		v.Boots = append(v.Boots, d.boot(f))
	}
	if v.Loader == nil {
		v.First, v.Failed = outcome(found, v.Boots)
	}
	return v, nil
}

// view is what a judgement goes by.
type view struct {
	r     io.ReaderAt
	slots []Slot
	esp   *fat
	espAt int64
	db    []*x509.Certificate
	memo  *Memo
}

// program is what can be said about a file without regard to its name. One of
// which only the beginning can be read is still an entry to the boot loader.
type program struct {
	extents   []extent // of the disk
	signature error
	osRelease map[string]string // nil if it has none
	cmdline   string
	noCmdline error
}

func (d *view) program(f file, limit int64) (*program, error) {
	if f.dir || f.size == 0 || f.size > limit {
		return nil, fmt.Errorf("%s: no file of 1 to %d bytes", f.name, limit)
	}
	where, broken := d.esp.chain(f.first, f.size)
	if broken != nil && !errors.Is(broken, errChain) {
		return nil, fmt.Errorf("%s: %w", f.name, broken)
	}
	extents := slices.Clone(where)
	for i := range extents {
		extents[i].at += d.espAt
	}
	return d.memo.program(extents, broken != nil, func() (*program, error) {
		b, err := d.esp.read(where)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.name, err)
		}
		p := &program{signature: broken}
		if broken == nil {
			p.signature = authenticode.Verify(b, d.db)
		}
		if s, err := uki.ReadSection(b, ".osrel"); err == nil {
			p.osRelease = osRelease(string(s))
		}
		s, err := uki.ReadSection(b, ".cmdline")
		p.cmdline, p.noCmdline = string(s), err
		return p, nil
	})
}

func (d *view) checkLoader(path string) error {
	f, err := d.esp.find(path)
	if err != nil {
		return err
	}
	p, err := d.program(f, maxProgram)
	if err != nil {
		return err
	}
	if p.signature != nil {
		return fmt.Errorf("%s: %w", path, p.signature)
	}
	return nil
}

// found is an entry as the boot loader sees it.
type found struct {
	*program
	id, name         string
	sortKey, version string
	left             int // -1 if not counted
}

// entries lists what systemd-boot takes for unified kernel images, in its
// order. Files in which it finds no name of a system are none.
func (d *view) entries() ([]found, error) {
	dir, err := d.esp.find(EntryDir)
	if err != nil {
		return nil, err
	}
	if !dir.dir {
		return nil, fmt.Errorf("%s: not a directory", EntryDir)
	}
	files, err := d.esp.directory(dir.first)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", EntryDir, err)
	}
	var out []found
	for _, f := range files {
		lower := strings.ToLower(f.name)
		if f.dir || strings.HasPrefix(f.name, ".") || strings.HasPrefix(f.name, "auto-") || !strings.HasSuffix(lower, ".efi") {
			continue
		}
		p, err := d.program(f, maxKernelImage)
		if err != nil || p.osRelease == nil {
			continue
		}
		os := p.osRelease
		if cmp.Or(os["PRETTY_NAME"], os["IMAGE_ID"], os["NAME"], os["ID"]) == "" {
			continue
		}
		if len(out) == maxEntries {
			return nil, fmt.Errorf("%s: more than %d entries", EntryDir, maxEntries)
		}
		out = append(out, found{
			program: p, id: lower, name: f.name, left: triesLeft(f.name),
			sortKey: cmp.Or(os["IMAGE_ID"], os["ID"]),
			version: cmp.Or(os["IMAGE_VERSION"], os["VERSION"], os["VERSION_ID"], os["BUILD_ID"]),
		})
	}
	slices.SortStableFunc(out, compareFound)
	return out, nil
}

// compareFound is the order of systemd-boot 257.
func compareFound(a, b found) int {
	last := func(bad bool) int {
		if bad {
			return 1
		}
		return 0
	}
	if c := cmp.Compare(last(a.left == 0), last(b.left == 0)); c != 0 {
		return c
	}
	if c := cmp.Compare(last(a.sortKey == ""), last(b.sortKey == "")); c != 0 {
		return c
	}
	if a.sortKey != "" {
		if c := cmp.Or(strings.Compare(a.sortKey, b.sortKey), -compareVersions(a.version, b.version)); c != 0 {
			return c
		}
	}
	return -compareVersions(a.id, b.id)
}

var counter = regexp.MustCompile(`\+([0-9]{1,10})(-[0-9]{1,10})?\.efi$`)

// triesLeft reads the counter in a file's name, as the boot loader does.
func triesLeft(name string) int {
	m := counter.FindStringSubmatch(name)
	if m == nil {
		return -1
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil || n > math.MaxInt32 {
		return -1
	}
	return int(n)
}

// osRelease reads the lines KEY=VALUE of an os-release file.
func osRelease(s string) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(s) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if n := len(value); n >= 2 && (value[0] == '"' || value[0] == '\'') && value[n-1] == value[0] {
			value = value[1 : n-1]
		}
		if ok && !strings.HasPrefix(key, "#") {
			out[key] = value
		}
	}
	return out
}

// boot says what comes of an entry once the loader starts it.
func (d *view) boot(f found) Boot {
	b := Boot{Entry: f.name}
	if b.Err = f.signature; b.Err != nil {
		return b
	}
	if b.Err = f.noCmdline; b.Err != nil {
		return b
	}
	for word := range strings.FieldsSeq(f.cmdline) {
		if s, ok := strings.CutPrefix(word, "roothash="); ok {
			b.RootHash = s
		}
		if s, ok := strings.CutPrefix(word, "holdfast.release="); ok {
			n, err := strconv.ParseInt(s, 10, 64)
			if err != nil || n < 0 {
				b.Err = fmt.Errorf("command line: holdfast.release=%q is no number", s)
				return b
			}
			b.Release = n
		}
	}
	hash, err := parseHash(b.RootHash)
	if err != nil {
		b.Err = fmt.Errorf("command line: %w", err)
		return b
	}
	s, ok := Find(d.slots, b.RootHash)
	if !ok {
		b.Err = errors.New("no slot has the identifiers of its root hash")
		return b
	}
	if err := d.memo.check(d.r, s, hash); err != nil {
		b.Err = fmt.Errorf("slot %s: %w", s.Name, err)
	}
	return b
}

// outcome boots again and again, as the guard and a kernel that panics do: a
// failing entry uses up its tries and becomes one of the last; one without a
// counter, or with none left, is tried for ever.
func outcome(entries []found, boots []Boot) (first, failed int) {
	type try struct {
		found
		index int
	}
	var order []try
	for i, f := range entries {
		order = append(order, try{f, i})
	}
	for len(order) > 0 {
		slices.SortStableFunc(order, func(a, b try) int { return compareFound(a.found, b.found) })
		t := &order[0]
		switch {
		case boots[t.index].Err == nil:
			return t.index, failed
		case t.left <= 0:
			return -1, failed
		}
		failed += t.left
		t.left = 0
	}
	return -1, failed
}
