// Package lab runs one virtual machine under QEMU on a developer's desk: the
// release's own image, behind a network with no way out whose wire is recorded.
//
// Everything a machine has lies below one directory:
//
//	config.json   what it was started with
//	disk.qcow2    overlay over the release's image; none when a server has the disk
//	sticks.json   what is plugged in: serial numbers and image files
//	vars.fd       the firmware's variables
//	qemu.pid      pid, start time and boot id of the running QEMU
//	qemu.log      what QEMU itself said
//	console.log   the serial console, from the first Up on
//	console.sock  the same, interactive; one client at a time
//	qmp.sock      QEMU's control socket
//	lab.sock      the agent's port
//	net.sock      where the network begins, if a server has it
//	net.pcap      the wire since the last Up; net.1.pcap, … before that
//
// QEMU runs in that directory and is given relative names only, and the sockets
// are dialled through a descriptor of it, so its path may be of any length.
package lab
