package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/node"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/sftp"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/status"
)

// place is where backups are kept.
type place interface {
	fmt.Stringer
	// draft is the name under which a file is written and read back, before rename
	// gives it its own.
	draft(name string) string
	create(name string) (placeFile, error)   // anew
	open(name string) (io.ReadCloser, error) // as it is there, not as it is remembered here
	rename(from, to string) error
	remove(name string) error
	list() ([]string, error)
}

// partSuffix is of a backup that is not whole, or not read back yet.
const partSuffix = ".part"

// placeFile is on the place once Sync and Close succeeded.
type placeFile interface {
	io.WriteCloser
	Sync() error
}

// at has f use a place, and leaves it in good order.
type at func(ctx context.Context, f func(place) error) error

// stick is a directory on a file system that is mounted.
type stick struct{ dir string }

func (s stick) String() string { return "the stick" }

func (s stick) draft(name string) string { return name + partSuffix }

func (s stick) create(name string) (placeFile, error) {
	return os.OpenFile(filepath.Join(s.dir, name), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
}

func (s stick) open(name string) (io.ReadCloser, error) {
	f, err := os.Open(filepath.Join(s.dir, name))
	if err != nil {
		return nil, err
	}
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (s stick) rename(from, to string) error {
	if err := os.Rename(filepath.Join(s.dir, from), filepath.Join(s.dir, to)); err != nil {
		return err
	}
	d, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (s stick) remove(name string) error { return os.Remove(filepath.Join(s.dir, name)) }

func (s stick) list() ([]string, error) {
	es, err := os.ReadDir(s.dir)
	var out []string
	for _, e := range es {
		out = append(out, e.Name())
	}
	return out, err
}

// onStickForBackups mounts the stick for backups, and unmounts it after f.
func (a *agent) onStickForBackups(ctx context.Context, f func(place) error) error {
	return a.onBackupStick(ctx, "rw", func(dir string) error { return f(stick{dir}) })
}

// server is a directory that is reached over the site's network.
type server struct{ *sftp.Dir }

// aheadOfServer is sent before the first of it is acknowledged.
const aheadOfServer = 4 << 20

type serverFile struct {
	*bufio.Writer
	f sftp.File
}

func (s server) draft(name string) string { return name + partSuffix }

func (s server) create(name string) (placeFile, error) {
	f, err := s.Create(name)
	if err != nil {
		return nil, err
	}
	return serverFile{bufio.NewWriterSize(f, aheadOfServer), f}, nil
}

func (f serverFile) Sync() error {
	if err := f.Flush(); err != nil {
		return err
	}
	return f.f.Sync()
}

func (f serverFile) Close() error { return f.f.Close() }

func (s server) open(name string) (io.ReadCloser, error) { return s.Open(name) }
func (s server) rename(from, to string) error            { return s.Rename(from, to) }
func (s server) remove(name string) error                { return s.Remove(name) }
func (s server) list() ([]string, error)                 { return s.List() }

// backupKeyFile is the key that servers for backups let this node in by. A
// backup has it too.
const backupKeyFile = "/var/lib/holdfast/backup-key/key"

// s3Scheme begins the URL of a place in a bucket.
const s3Scheme = "s3://"

// onServer connects to the server that the release names for backups.
func (a *agent) onServer(c node.Config) at {
	return func(ctx context.Context, f func(place) error) error {
		if c.Backups.To == "" {
			return errors.New("cannot make a backup: the release names no server for it\nhint: name one in site.yaml, as backups.to, or use a stick")
		}
		if strings.HasPrefix(c.Backups.To, s3Scheme) {
			return a.onBucket(ctx, c, f)
		}
		key, _, err := sftp.Key(a.host.path(backupKeyFile), a.keyComment(c), a.host.Random)
		if err != nil {
			return err
		}
		d, err := sftp.Dial(ctx, sftp.Server{URL: c.Backups.To, HostKeys: c.Backups.HostKeys}, key)
		if err != nil {
			return err
		}
		return errors.Join(f(server{d}), d.Close())
	}
}

func (a *agent) keyComment(c node.Config) string { return "holdfast-backup@" + c.Name }

// showServer says where backups go, and which key that server must let in, or
// which credentials it is asked with.
func (a *agent) showServer(c node.Config) {
	if c.Backups.To == "" {
		return
	}
	if strings.HasPrefix(c.Backups.To, s3Scheme) {
		a.showBucket(c)
		return
	}
	_, public, err := sftp.Key(a.host.path(backupKeyFile), a.keyComment(c), a.host.Random)
	if err != nil {
		a.Say("no backups: %v", err)
		return
	}
	a.tellServer(status.BackupServer{URL: c.Backups.To, Key: public})
}

func (a *agent) tellServer(k status.BackupServer) {
	a.Update(func(s *status.Status) { s.BackupServer = &k })
	a.Say("%s", k.Text())
}
