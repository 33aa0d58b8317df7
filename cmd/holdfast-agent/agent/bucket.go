package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/atomicfile"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/node"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/s3"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/status"
)

const (
	// bucketKeyFile has what targets of S3 let this node in by. A backup has it too.
	bucketKeyFile = "/var/lib/holdfast/backup-key/s3-credentials"

	// unreadFile has lines of the URL of a target and the name of a file there that
	// this node began and has not read back.
	unreadFile = "/var/lib/holdfast/backup-unread"
	mostUnread = 20

	// A target that does not answer within that time is tried with the next backup.
	tryWithin = 2 * time.Minute
)

// bucket is a place in a bucket. A file there is seen only when it is whole, and
// cannot change its name without being copied, which would have to be read back
// once more. So it has its own from the start, and the node notes until it has
// read it back that it has not: what another try left is removed by the next.
type bucket struct {
	*s3.Bucket
	a    *agent
	site string
}

// onBucket has f use the bucket that the release names for backups.
func (a *agent) onBucket(ctx context.Context, c node.Config, f func(place) error) error {
	k, err := s3.ReadFile(a.host.path(bucketKeyFile))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot use %s: this node has no credentials for it\nhint: %s", c.Backups.To, giveCredentials)
	}
	if err != nil {
		return fmt.Errorf("cannot use %s: %w\nhint: %s", c.Backups.To, err, giveCredentials)
	}
	b, err := s3.Open(ctx, targetOf(c), k)
	if err != nil {
		return err
	}
	defer b.Close()
	return f(bucket{b, a, c.Name})
}

func targetOf(c node.Config) s3.Target {
	return s3.Target{URL: c.Backups.To, Region: c.Backups.Region, Authority: c.Backups.Authority}
}

func (b bucket) draft(name string) string { return name }

func (b bucket) create(name string) (placeFile, error) {
	// What stays there costs room, and no backup.
	left, err := b.clearUp()
	if err != nil {
		b.a.Say("backup: cannot clear up after an earlier one: %v", err)
	}
	if err := b.a.noteUnread(append(left, b.unread(name))); err != nil {
		return nil, err
	}
	f, err := b.Create(name)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// clearUp removes what earlier tries of this site left, and returns the notes of
// what it could not. Some servers list what is half written only by its whole
// name.
func (b bucket) clearUp() (left []string, err error) {
	form := backupForm(b.site)
	errs := []error{b.AbortUploads(b.site+"-", form.MatchString)}
	notes, err := b.a.notedUnread()
	errs = append(errs, err)
	for _, n := range notes {
		name, here := strings.CutPrefix(n, b.unread(""))
		if here && form.MatchString(name) {
			err := errors.Join(b.AbortUploads(name, func(s string) bool { return s == name }), b.Remove(name))
			if err == nil {
				continue
			}
			errs = append(errs, err)
		}
		left = append(left, n)
	}
	return left, errors.Join(errs...)
}

// unread is the note of a file that was begun.
func (b bucket) unread(name string) string { return b.String() + " " + name }

func (a *agent) notedUnread() ([]string, error) {
	doc, err := os.ReadFile(a.host.path(unreadFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot read which backups were begun: %w", err)
	}
	return strings.FieldsFunc(string(doc), func(r rune) bool { return r == '\n' }), nil
}

// noteUnread keeps the newest notes, and no file if there are none.
func (a *agent) noteUnread(notes []string) error {
	name := a.host.path(unreadFile)
	var err error
	if len(notes) == 0 {
		err = os.Remove(name)
	} else {
		notes = notes[max(0, len(notes)-mostUnread):]
		err = atomicfile.Write(name, []byte(strings.Join(notes, "\n")+"\n"), 0o644)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot note which backups were begun: %w", err)
	}
	return nil
}

func (b bucket) open(name string) (io.ReadCloser, error) { return b.Open(name) }

// rename leaves the name, and forgets the note of what has it, which was read
// back.
func (b bucket) rename(from, to string) error {
	if from != to {
		return fmt.Errorf("internal error: %s cannot become %s in a bucket", from, to)
	}
	notes, err := b.a.notedUnread()
	if err != nil {
		return err
	}
	return b.a.noteUnread(slices.DeleteFunc(notes, func(n string) bool { return n == b.unread(to) }))
}

func (b bucket) remove(name string) error { return b.Remove(name) }

func (b bucket) list() ([]string, error) { return b.List() }

// showBucket says where backups go, and which access key the node has.
func (a *agent) showBucket(c node.Config) {
	k, err := s3.ReadFile(a.host.path(bucketKeyFile))
	told := status.BackupServer{URL: c.Backups.To, AccessKey: k.AccessKey}
	if err != nil {
		told.Missing = giveCredentials
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.Say("no backups: %v", err)
	}
	a.tellServer(told)
}

const (
	// credentialsFile is the name of the file on the stick.
	credentialsFile = "s3-credentials"

	giveCredentials = `put them into the file ` + credentialsFile + ` of a stick labelled ` + backupLabel + ` and that into the running node, or pipe them to "holdfast-agent backup credentials"`
)

// offerCredentials asks whether the credentials on a stick are to be taken, and
// reports whether there are any. It says itself how that ends.
func (a *agent) offerCredentials(ctx context.Context, u *updates) bool {
	c := u.running.config
	if !strings.HasPrefix(c.Backups.To, s3Scheme) {
		return false
	}
	k, err := a.credentialsOnStick(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	if err != nil {
		a.Say("the credentials on the stick are not taken: %v", err)
		return true
	}
	const want = "credentials"
	a.Say("the stick has credentials: the access key %s, for %s\ntype \"%s\" and Enter here to have this node take them; pull it out to leave them", k, c.Backups.To, want)
	if !a.typed(ctx, want, backupDevice) {
		return true
	}
	text, err := a.takeCredentials(ctx, c, k)
	if err != nil {
		a.Say("the credentials on the stick are not taken: %v", err)
		return true
	}
	a.Say("%sdestroy the file %s on the stick: whoever has it gets at the backups", text, credentialsFile)
	return true
}

// credentialsOnStick reads them. Its error wraps fs.ErrNotExist where there are
// none, or no stick that can be read: whoever wants a backup on it is told.
func (a *agent) credentialsOnStick(ctx context.Context) (k s3.Credentials, err error) {
	unread := a.onBackupStick(ctx, "ro", func(dir string) error {
		f, open := os.Open(filepath.Join(dir, credentialsFile))
		if open != nil {
			return open
		}
		defer f.Close()
		k, err = s3.Parse(f)
		return nil
	})
	if unread != nil {
		return k, fmt.Errorf("%w: %w", fs.ErrNotExist, unread)
	}
	return k, err
}

// credentials answers a request to take some.
func (a *agent) credentials(ctx context.Context, u *updates) func(string) (string, error) {
	return func(file string) (string, error) {
		c := u.running.config
		if !strings.HasPrefix(c.Backups.To, s3Scheme) {
			return "", errors.New("cannot take credentials: the release names no bucket for backups\nhint: name one in site.yaml, as backups.to")
		}
		k, err := s3.Parse(strings.NewReader(file))
		if err != nil {
			return "", err
		}
		return a.takeCredentials(ctx, c, k)
	}
}

// takeCredentials keeps credentials, unless the target says that it does not
// know them, and says how the target took them.
func (a *agent) takeCredentials(ctx context.Context, c node.Config, k s3.Credentials) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, tryWithin)
	defer cancel()
	b, err := s3.Open(ctx, targetOf(c), k)
	if err != nil {
		return "", err
	}
	defer b.Close()
	found, tried := b.List()
	if errors.Is(tried, s3.ErrRefused) {
		return "", tried
	}
	if err := k.WriteFile(a.host.path(bucketKeyFile)); err != nil {
		return "", err
	}
	a.tellServer(status.BackupServer{URL: c.Backups.To, AccessKey: k.AccessKey})
	if tried != nil {
		return fmt.Sprintf("the access key %s is taken, and no backup can be made with it yet: %v\n", k, tried), nil
	}
	names := 0
	for _, name := range found {
		if backupForm(c.Name).MatchString(name) {
			names++
		}
	}
	return fmt.Sprintf("the access key %s is taken, and lets this node in: %d backups of the site are there\n", k, names), nil
}
