// Package sftp keeps files in a directory of a server on the site's network, by
// the SSH File Transfer Protocol (draft-ietf-secsh-filexfer-02, with OpenSSH's
// posix-rename and fsync).
package sftp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

const (
	dialWithin = 30 * time.Second
	// A server that says nothing for that long is gone: the longest pause is a
	// large file's way to its disk.
	silence = 10 * time.Minute
	port    = "22"
)

// Server is a directory on a server.
type Server struct {
	URL      string   // sftp://USER@ADDRESS[:PORT]/DIRECTORY
	HostKeys []string // public ones, as "ssh-ed25519 AAAA…"; the server must show one of them
}

// Dir is the directory, while the connection stands.
type Dir struct {
	c      *sftp.Client
	ssh    *ssh.Client
	dir    string
	server string
}

// Dial signs in with key. The connection ends with ctx, or with Close.
func Dial(ctx context.Context, s Server, key ssh.Signer) (*Dir, error) {
	d, err := dial(ctx, s, key)
	if err != nil {
		return nil, fmt.Errorf("cannot use %s: %w", s.URL, err)
	}
	return d, nil
}

func dial(ctx context.Context, s Server, key ssh.Signer) (*Dir, error) {
	u, err := url.Parse(s.URL)
	if err != nil || u.Scheme != "sftp" || u.User.Username() == "" || u.Hostname() == "" || !path.IsAbs(u.Path) {
		return nil, errors.New("want sftp://USER@ADDRESS/DIRECTORY")
	}
	keys, err := hostKeys(s.HostKeys)
	if err != nil {
		return nil, err
	}
	address := net.JoinHostPort(u.Hostname(), port)
	if u.Port() != "" {
		address = u.Host
	}
	dialer := net.Dialer{Timeout: dialWithin}
	c, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	d, err := over(timed{c}, address, u, keys, key)
	if err != nil {
		stop()
		return nil, errors.Join(err, ctx.Err(), closed(c))
	}
	return d, nil
}

func over(c net.Conn, address string, u *url.URL, keys []ssh.PublicKey, key ssh.Signer) (*Dir, error) {
	config := &ssh.ClientConfig{
		User: u.User.Username(), Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, Timeout: dialWithin,
		HostKeyCallback: func(_ string, _ net.Addr, shown ssh.PublicKey) error {
			if slices.ContainsFunc(keys, func(k ssh.PublicKey) bool { return bytes.Equal(k.Marshal(), shown.Marshal()) }) {
				return nil
			}
			return fmt.Errorf("it shows the host key %s, which the release does not name\nhint: if the server has a new key, name it in site.yaml; if not, somebody is in its place",
				strings.TrimSpace(string(ssh.MarshalAuthorizedKey(shown))))
		},
		HostKeyAlgorithms: algorithms(keys),
	}
	conn, channels, requests, err := ssh.NewClientConn(c, address, config)
	if err != nil && strings.Contains(err.Error(), "unable to authenticate") {
		err = fmt.Errorf("%w\nhint: the server must let in this node's key; \"holdfast-agent status\" shows it", err)
	}
	if err != nil {
		return nil, err
	}
	client := ssh.NewClient(conn, channels, requests)
	files, err := sftp.NewClient(client, sftp.UseConcurrentWrites(true))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("it has no SFTP: %w", err), closed(client))
	}
	return &Dir{files, client, u.Path, u.Host}, nil
}

// algorithms are the signatures that these keys can make, so that a server with
// several keys shows one of them.
func algorithms(keys []ssh.PublicKey) []string {
	var out []string
	for _, k := range keys {
		if k.Type() == ssh.KeyAlgoRSA {
			out = append(out, ssh.KeyAlgoRSASHA256, ssh.KeyAlgoRSASHA512)
		} else {
			out = append(out, k.Type())
		}
	}
	return out
}

func hostKeys(lines []string) ([]ssh.PublicKey, error) {
	var out []ssh.PublicKey
	var errs []error
	for _, line := range lines {
		k, _, _, rest, err := ssh.ParseAuthorizedKey([]byte(line))
		if err == nil && len(rest) > 0 {
			err = errors.New("more than one key")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("cannot read the host key %q: %w", line, err))
			continue
		}
		out = append(out, k)
	}
	if len(lines) == 0 {
		errs = append(errs, errors.New("the release names no host key of it"))
	}
	return out, errors.Join(errs...)
}

func (d *Dir) String() string { return d.server }

// Close ends the connection.
func (d *Dir) Close() error { return errors.Join(closed(d.c), closed(d.ssh)) }

// closed closes c, if nobody has yet.
func closed(c io.Closer) error {
	if err := c.Close(); err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// File is one that is written.
type File struct {
	*sftp.File
}

// Sync has the server bring the file to its disk, where it knows how.
func (f File) Sync() error {
	err := f.File.Sync()
	var status *sftp.StatusError
	if errors.As(err, &status) && status.FxCode() == sftp.ErrSSHFxOpUnsupported {
		return nil
	}
	return err
}

// Create makes a file anew.
func (d *Dir) Create(name string) (File, error) {
	f, err := d.c.OpenFile(path.Join(d.dir, name), unix.O_CREAT|unix.O_TRUNC|unix.O_WRONLY)
	return File{f}, err
}

// Open opens a file to be read.
func (d *Dir) Open(name string) (io.ReadCloser, error) { return d.c.Open(path.Join(d.dir, name)) }

// Rename gives a file another name, in the place of any that has it.
func (d *Dir) Rename(from, to string) error {
	return d.c.PosixRename(path.Join(d.dir, from), path.Join(d.dir, to))
}

// Remove removes a file.
func (d *Dir) Remove(name string) error { return d.c.Remove(path.Join(d.dir, name)) }

// List gives the names of what is in the directory.
func (d *Dir) List() ([]string, error) {
	es, err := d.c.ReadDir(d.dir)
	if err != nil {
		return nil, fmt.Errorf("cannot list %s on %s: %w", d.dir, d.server, err)
	}
	var out []string
	for _, e := range es {
		out = append(out, e.Name())
	}
	return out, nil
}

// timed ends a connection whose other side says nothing any more.
type timed struct {
	net.Conn
}

func (t timed) Read(b []byte) (int, error) {
	if err := t.SetReadDeadline(time.Now().Add(silence)); err != nil {
		return 0, err
	}
	return t.Conn.Read(b)
}

func (t timed) Write(b []byte) (int, error) {
	if err := t.SetWriteDeadline(time.Now().Add(silence)); err != nil {
		return 0, err
	}
	return t.Conn.Write(b)
}
