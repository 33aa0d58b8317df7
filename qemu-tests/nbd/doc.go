// Package nbd is a disk for virtual machines whose power can be cut.
//
// A [Disk] is a base image, which is only read, under an overlay file that
// holds what is durable. Like the cache of a real disk, it keeps writes in
// memory until a flush or a forced write (FUA) makes them durable. [Disk.Cut]
// takes the power away: of the writes that were not durable it keeps some,
// drops some and tears some, as a seed says. A machine reaches the disk through
// a unix socket by the NBD protocol, of which this is the part that QEMU needs:
// fixed newstyle negotiation and simple replies.
// https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md
//
// A [Log] is the record of all that a machine did to its disk. From it, the
// disk can be had as a power cut would have left it after any operation,
// without a machine and without copying the disk.
package nbd
