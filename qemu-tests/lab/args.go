package lab

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// arguments is QEMU's command line; it names files relative to the directory.
func arguments(s state, sticks []stick, firmware string, bios bool) []string {
	machine := "q35"
	var args []string
	add := func(a ...string) { args = append(args, a...) }
	if !bios {
		machine += ",smm=on,pflash0=code,pflash1=vars"
		add("-blockdev", `driver=raw,node-name=code,read-only=on,file.driver=file,file.filename=`+commas(firmware),
			"-blockdev", `driver=raw,node-name=vars,file.driver=file,file.filename=vars.fd`)
		if s.Secure {
			// Only the firmware itself may write its variables.
			add("-global", "driver=cfi.pflash01,property=secure,value=on")
		}
		add("-global", "ICH9-LPC.disable_s3=1")
	}
	accel, cpu := "kvm", "host"
	if s.Accel.Name == "tcg" {
		// "rep movsb" is one emulated step a byte: kernel, libc and Go's runtime
		// copy and clear memory several times faster if told not to use it.
		// What was translated has room for all that a node runs: QEMU's own 1 GiB
		// fills up within a boot, and then everything is translated again.
		accel, cpu = "tcg,thread=multi,tb-size=2047", "max,-erms,-fsrm,-fzrm,-fsrs,-fsrc"
	}
	add("-name", "holdfast-lab", "-machine", machine, "-accel", accel, "-cpu", cpu,
		"-smp", fmt.Sprint(s.CPUs), "-m", fmt.Sprint(s.MemoryMiB),
		"-nodefaults", "-no-user-config", "-display", "none",
		"-uuid", uuid(s.Serial, s.MAC),
		"-smbios", "type=1,manufacturer=holdfast,product=lab,serial="+commas(s.Serial))
	if s.Clock != "" {
		add("-rtc", "base="+s.Clock)
	}
	// A flush reaches this host's page cache and not its disk: killing QEMU
	// loses nothing, and whoever tests power cuts gives another disk.
	disk, onError := "driver=qcow2,node-name=disk,discard=unmap,cache.no-flush=on,file.driver=file,file.filename=disk.qcow2,file.discard=unmap,file.cache.no-flush=on", ""
	if s.Disk != "" {
		// A guest whose disk lost its power must not live on to notice it.
		disk, onError = "driver=nbd,node-name=disk,discard=unmap,server.type=unix,server.path="+commas(s.Disk), ",werror=stop,rerror=stop"
	}
	add("-blockdev", disk, "-object", "iothread,id=io",
		// First to boot from, whatever stick is plugged in.
		"-device", "virtio-blk-pci,drive=disk,iothread=io,bootindex=0,serial=holdfast-lab"+onError)
	netdev := "stream,id=net,server=off,addr.type=unix,addr.path=" + commas(s.Network)
	if s.Network == "" {
		// restrict: no way out, not even to this host; only the forwards lead in.
		netdev = "user,id=net,restrict=on"
		for _, h := range slices.Sorted(maps.Keys(s.Forward)) {
			netdev += fmt.Sprintf(",hostfwd=tcp:127.0.0.1:%d-:%d", h, s.Forward[h])
		}
	}
	add("-netdev", netdev, "-device", "virtio-net-pci,netdev=net,romfile=,mac="+s.MAC,
		"-object", "filter-dump,id=dump,netdev=net,file=net.pcap")
	add("-device", "virtio-rng-pci", "-device", "i6300esb", "-action", "watchdog=reset",
		"-chardev", "socket,id=console,path=console.sock,server=on,wait=off,logfile=console.log,logappend=on",
		"-serial", "chardev:console",
		// Room for one port: QEMU looks at each that could be there all the time.
		"-device", "virtio-serial-pci,max_ports=2",
		"-chardev", "socket,id=lab,path=lab.sock,server=on,wait=off",
		"-device", "virtserialport,chardev=lab,name=dev.holdfast.lab",
		"-qmp", "unix:qmp.sock,server=on,wait=off")
	// Behind all others, which so keep their places on the bus.
	add("-device", "virtio-scsi-pci,id="+stickBus)
	for _, k := range sticks {
		add("-blockdev", "driver=raw,node-name="+k.node()+",read-only="+onOff(!k.Writable)+",file.driver=file,file.filename="+commas(k.Image),
			"-device", "scsi-hd,bus="+stickBus+".0,drive="+k.node()+",id="+k.node()+",serial="+k.Serial)
	}
	return args
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

// commas writes a value as QEMU's option syntax wants it.
func commas(s string) string { return strings.ReplaceAll(s, ",", ",,") }

// uuid is the machine's SMBIOS UUID, from which the guest takes its machine
// id: the same for the same machine, as on hardware. RFC 9562, version 8.
func uuid(serial, mac string) string {
	b := sha256.Sum256([]byte("holdfast lab\n" + serial + "\n" + strings.ToLower(mac)))
	b[6] = b[6]&0x0f | 0x80
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:16])
}
