package netpol

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// record is what containerd's network library writes when it has given a pod
// its address: before the pod's first container starts, and seconds before the
// kubelet tells the cluster. So a pod's first packet meets its rules.
type record struct {
	namespace, name, uid string
	ip                   netip.Addr
	written              time.Time
}

// What a directory of records may hold.
const (
	mostRecords    = 1000
	mostRecordSize = 1 << 20
)

// readRecords gives those of a directory, the newest first. A file that is
// removed or still being written is left out: another look follows.
func readRecords(dir string) ([]record, error) {
	es, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("cannot read pods' addresses: %w", err)
	}
	if len(es) > mostRecords {
		return nil, fmt.Errorf("cannot read pods' addresses: %s has %d files, more than %d", dir, len(es), mostRecords)
	}
	var out []record
	for _, e := range es {
		if r, ok := readRecord(filepath.Join(dir, e.Name())); ok {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b record) int { return b.written.Compare(a.written) })
	return out, nil
}

// Addresses gives the pods of the node by address, as NAMESPACE/NAME, from dir,
// which is RecordsDir.
func Addresses(dir string) (map[netip.Addr]string, error) {
	records, err := readRecords(dir)
	out := map[netip.Addr]string{}
	for _, r := range records {
		if out[r.ip] == "" { // the newest counts
			out[r.ip] = r.namespace + "/" + r.name
		}
	}
	return out, err
}

func readRecord(file string) (r record, ok bool) {
	f, err := os.Open(file)
	if err != nil {
		return r, false
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return r, false
	}
	var j struct {
		Args   [][2]string `json:"cniArgs"`
		Result struct {
			IPs []struct {
				Address netip.Prefix `json:"address"`
			} `json:"ips"`
		} `json:"result"`
	}
	b, err := io.ReadAll(io.LimitReader(f, mostRecordSize))
	if err != nil || json.Unmarshal(b, &j) != nil {
		return r, false
	}
	r.written = fi.ModTime()
	for _, a := range j.Args {
		switch a[0] {
		case "K8S_POD_NAMESPACE":
			r.namespace = a[1]
		case "K8S_POD_NAME":
			r.name = a[1]
		case "K8S_POD_UID":
			r.uid = a[1]
		}
	}
	for _, ip := range j.Result.IPs {
		if ip.Address.Addr().Is4() && !r.ip.IsValid() {
			r.ip = ip.Address.Addr()
		}
	}
	return r, r.name != "" && r.ip.IsValid()
}

// watchRecords calls changed whenever a record is written or removed, until ctx
// ends or the kernel cannot tell any more.
func watchRecords(ctx context.Context, dir string, changed func()) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("cannot watch pods' addresses: %w", err)
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("cannot watch pods' addresses: %w", err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	defer f.Close()
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CLOSE_WRITE|unix.IN_MOVED_TO|unix.IN_DELETE); err != nil {
		return fmt.Errorf("cannot watch %s: %w", dir, err)
	}
	defer context.AfterFunc(ctx, func() { f.Close() })()
	changed()
	for b := make([]byte, 64<<10); ; {
		if _, err := f.Read(b); err != nil {
			return errors.Join(ctx.Err(), fmt.Errorf("cannot watch %s: %w", dir, err))
		}
		changed()
	}
}

// mirrors is the annotation of a pod that stands for one of the node's own
// files; its value is the identifier that the node knows the pod by.
const mirrors = "kubernetes.io/config.mirror"

// of reports whether a record is of this pod.
func (r record) of(namespace, name, uid string, annotations map[string]string) bool {
	return r.namespace == namespace && r.name == name &&
		(r.uid == "" || strings.EqualFold(r.uid, uid) || r.uid == annotations[mirrors])
}
