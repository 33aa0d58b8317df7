package flash_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"holdfast.dev/holdfast/image/flash"
)

// machine lays out what a kernel would show of a machine: NAME=TEXT lines.
func machine(t *testing.T, files string) flash.System {
	t.Helper()
	dir := t.TempDir()
	for line := range strings.Lines(files) {
		name, text, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok {
			continue
		}
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(strings.ReplaceAll(text, `\n`, "\n")), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return flash.System{Sys: filepath.Join(dir, "sys"), Proc: filepath.Join(dir, "proc"), Dev: filepath.Join(dir, "dev"), Run: filepath.Join(dir, "run")}
}

// A server: root on LVM in a LUKS on sda2, swap there too; RAID over sdb1;
// btrfs over sdc; an empty sdd; sticks and cards.
const server = `
sys/block/sda/dev=8:0
sys/block/sda/size=2000
sys/block/sda/device/vendor=ATA     
sys/block/sda/device/model=Disk One    \n
sys/block/sda/device/vpd_pg80=` + "\x00\x80\x00\x08" + `  S3R1AL
sys/block/sda/sda1/dev=8:1
sys/block/sda/sda1/partition=1
sys/block/sda/sda2/dev=8:2
sys/block/sda/sda2/partition=2
sys/block/sda/sda2/holders/dm-0=
sys/block/dm-0/dev=253:0
sys/block/dm-0/slaves/sda2=
sys/block/dm-0/holders/dm-1=
sys/block/dm-1/dev=253:1
sys/block/dm-1/slaves/dm-0=
sys/block/sdb/dev=8:16
sys/block/sdb/size=4000
sys/block/sdb/sdb1/dev=8:17
sys/block/sdb/sdb1/partition=1
sys/block/sdb/sdb1/holders/md0=
sys/block/md0/dev=9:0
sys/block/sdc/dev=8:32
sys/block/sdc/size=4000
sys/fs/btrfs/0a0b/devices/sdc=
sys/block/sdd/dev=8:48
sys/block/sdd/size=4000
sys/block/sdd/ro=1
sys/block/sdd/queue/logical_block_size=4096
run/udev/data/b8:48=E:ID_MODEL=x\nE:ID_SERIAL_SHORT=UDEV1\n
sys/block/sde/dev=8:64
sys/block/sde/size=0
sys/block/sde/removable=1
sys/block/sdf/dev=8:80
sys/block/sdf/size=4000
sys/block/nvme0n1/dev=259:0
sys/block/nvme0n1/size=8000
sys/block/nvme0n1/device/serial=N1      \n
sys/block/nvme0n1/device/model=Flash` + "\x1b" + `[2J Drive\n
sys/block/vda/dev=254:0
sys/block/vda/size=8000
sys/block/vda/serial=V1
sys/block/loop0/dev=7:0
sys/block/loop0/size=0
sys/block/zram0/dev=252:0
sys/block/zram0/size=100
sys/block/sr0/dev=11:0
sys/block/sr0/size=100
proc/self/mountinfo=22 1 253:1 / / rw - ext4 /dev/mapper/vg-root rw\n23 22 8:1 / /boot/efi rw - vfat /dev/sda1 rw\n24 22 254:0 / /mnt/a\040b rw - xfs /dev/vda rw\n25 22 0:20 / /proc rw - proc proc rw\n
proc/swaps=Filename Type Size Used Priority\n
`

func TestList(t *testing.T) {
	devices, err := machine(t, server).List(flash.Need{Size: 3000 * 512})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range devices {
		got = append(got, strings.Join([]string{filepath.Base(d.Path), d.Model, d.Serial, strings.Join(d.Refusals, "; ")}, "|"))
	}
	want := []string{
		"nvme0n1|Flash[2J Drive|N1|",
		"sda|Disk One|S3R1AL|holds the running system: / (dm-1); holds the running system: /boot/efi (sda1); is part of dm-0; is part of dm-1; has 1024000 bytes, where 1536000 are needed",
		"sdb|||is part of md0",
		"sdc|||is part of the mounted btrfs 0a0b",
		"sdd||UDEV1|is read-only; has sectors of 4096 bytes, where images are made for 512",
		"sde|||has no medium",
		"sdf|||",
		"vda||V1|is mounted at /mnt/a b",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// Without knowing what is mounted, nothing may be written.
func TestListFailsClosed(t *testing.T) {
	for _, mountinfo := range []string{"", "proc/self/mountinfo=22 1 8:0 / /\n"} {
		s := machine(t, "sys/block/sda/dev=8:0\nsys/block/sda/size=10\n"+mountinfo)
		if _, err := s.List(flash.Need{}); err == nil || !strings.Contains(err.Error(), "cannot see what is mounted") {
			t.Errorf("%q: %v", mountinfo, err)
		}
	}
}

func TestFind(t *testing.T) {
	backing := file(t, 4*mib, 0)
	dev := loop(t, backing)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dev, link); err != nil {
		t.Fatal(err)
	}
	d, err := flash.System{}.Find(link, flash.Need{Size: 4 * mib})
	if err != nil || d.Path != dev || d.Size != 4*mib || !d.Usable() {
		t.Errorf("%+v, %v", d, err)
	}
	for _, c := range []struct {
		need flash.Need
		want string
	}{
		{flash.Need{Size: 4*mib + 1}, "has 4194304 bytes, where 4194305 are needed"},
		{flash.Need{Serial: "X"}, `has the serial "", not "X"`},
		{flash.Need{Image: backing}, "lies in the image itself"},
	} {
		if d, err := (flash.System{}).Find(dev, c.need); err != nil || !slices.Contains(d.Refusals, c.want) {
			t.Errorf("%+v: %v, %v", c.need, d.Refusals, err)
		}
	}
	for _, path := range []string{backing, filepath.Join(backing, "none"), "/dev/null"} {
		if _, err := (flash.System{}).Find(path, flash.Need{}); err == nil {
			t.Errorf("%s is a disk", path)
		}
	}
}

func TestFindRefuses(t *testing.T) {
	t.Run("read-only", func(t *testing.T) { refused(t, loop(t, file(t, 4*mib, 0), "-r"), "is read-only") })
	t.Run("sectors", func(t *testing.T) {
		refused(t, loop(t, file(t, 4*mib, 0), "--sector-size", "4096"), "has sectors of 4096 bytes")
	})
	t.Run("loop over loop", func(t *testing.T) {
		below := loop(t, file(t, 4*mib, 0))
		refused(t, below, "is part of "+filepath.Base(loop(t, below)))
	})
	t.Run("held", func(t *testing.T) {
		dev := loop(t, file(t, 4*mib, 0))
		f, err := os.OpenFile(dev, os.O_RDONLY|os.O_EXCL, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		refused(t, dev, "is in use, by another")
	})
	t.Run("mounted", func(t *testing.T) {
		dev, dir := loop(t, file(t, 8*mib, 0)), t.TempDir()
		tool(t, "mkfs.ext4", "-q", dev)
		tool(t, "mount", dev, dir)
		t.Cleanup(func() { tool(t, "umount", dir) })
		refused(t, dev, "is mounted at "+dir)
	})
}

func refused(t *testing.T, dev, want string) {
	t.Helper()
	if d := find(t, dev); d.Usable() || !strings.Contains(strings.Join(d.Refusals, "; "), want) {
		t.Errorf("%v, want %q", d.Refusals, want)
	}
}

func TestReadContent(t *testing.T) {
	for _, c := range []struct {
		want string
		make func(t *testing.T, name string)
	}{
		{"nothing known", func(*testing.T, string) {}},
		{`ext "data"`, func(t *testing.T, name string) { tool(t, "mkfs.ext4", "-q", "-F", "-L", "data", name) }},
		{`vfat "STICK"`, func(t *testing.T, name string) { tool(t, "mkfs.vfat", "-n", "STICK", name) }},
		{`swap "s"`, func(t *testing.T, name string) { tool(t, "mkswap", "-L", "s", name) }},
		{`btrfs "pool"`, func(t *testing.T, name string) { tool(t, "mkfs.btrfs", "-q", "-L", "pool", name) }},
		{`xfs "x"`, func(t *testing.T, name string) { tool(t, "mkfs.xfs", "-q", "-L", "x", name) }},
		{`luks "l"`, func(t *testing.T, name string) {
			tool(t, "cryptsetup", "luksFormat", "-q", "--label", "l", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", name, "/etc/hostname")
		}},
		{`gpt: one (swap), two`, func(t *testing.T, name string) {
			tool(t, "sgdisk", "-n1:0:+2M", "-c1:one", "-n2:0:+2M", "-c2:two", name)
			part := file(t, 2*mib, 0)
			tool(t, "mkswap", part)
			paste(t, name, part, mib)
		}},
		{"mbr: type 0x83, type 0x07", func(t *testing.T, name string) {
			f := filepath.Join(t.TempDir(), "script")
			if err := os.WriteFile(f, []byte("sfdisk -q "+name+" <<E\nlabel: dos\nsize=2M, type=83\nsize=2M, type=7\nE\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			tool(t, "sh", f)
		}},
	} {
		t.Run(c.want, func(t *testing.T) {
			size := 8 * mib
			if strings.HasPrefix(c.want, "btrfs") || strings.HasPrefix(c.want, "xfs") {
				size = 320 * mib
			}
			name := file(t, 0, 0)
			if err := os.Truncate(name, int64(size)); err != nil {
				t.Fatal(err)
			}
			c.make(t, name)
			f, err := os.Open(name)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if got := flash.ReadContent(f, int64(size)).String(); got != c.want {
				t.Errorf("got %q", got)
			}
		})
	}
}

// paste writes a file into another at an offset.
func paste(t *testing.T, name, part string, at int64) {
	t.Helper()
	b, err := os.ReadFile(part)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

// What is on a disk is anybody's bytes: no panic, and nothing that a terminal
// would obey.
func FuzzReadContent(f *testing.F) {
	f.Add([]byte("LUKS\xba\xbe"))
	mbr := make([]byte, 512)
	copy(mbr[446:], "\x00\x00\x00\x00\x83\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff")
	mbr[510], mbr[511] = 0x55, 0xaa
	f.Add(mbr)
	f.Fuzz(func(t *testing.T, b []byte) {
		s := flash.ReadContent(bytes.NewReader(b), int64(len(b))).String()
		if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == 0x9b }) {
			t.Errorf("%q", s)
		}
	})
}
