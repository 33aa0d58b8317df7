package agent_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/bundles/backup"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/s3"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/s3/s3test"
)

const bucketKey = "var/lib/holdfast/backup-key/s3-credentials"

// bucketSite is a site whose backups go to a bucket, without credentials.
func bucketSite(t *testing.T, s *s3test.Server, place string) *box {
	t.Helper()
	_, public := recoveryKeys(t)
	b := siteWith(t, key(t), public)
	b.remove("dev/disk/by-label/HF-BACKUP")
	b.backups = map[string]any{"to": s.Target(place).URL, "authority": s.Authority}
	k := key(t)
	b.trust(k)
	b.seed(k, mac)
	return b
}

// while runs a command beside the agent.
func (b *box) while(stdin string, args ...string) (code int, out string) {
	b.t.Helper()
	b.mu.Lock()
	b.log.Write(b.console.Bytes()) // for hides
	b.console.Reset()
	b.mu.Unlock()
	var w bytes.Buffer
	b.startAnd("waiting for the API server since 1", func() {
		code = agent.Main(b.t.Context(), args, func(string) agent.Host { return b.Host }, strings.NewReader(stdin), &w, &w)
	})
	return code, w.String()
}

// hides checks that a secret is nowhere but in the file where it belongs.
func (b *box) hides(secret string, outs ...string) {
	b.t.Helper()
	b.mu.Lock()
	outs = append(outs, b.console.String(), b.log.String())
	b.mu.Unlock()
	if strings.Contains(strings.Join(outs, ""), secret) {
		b.t.Error("the secret was said")
	}
	err := filepath.WalkDir(b.Root, func(name string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(name)
		if rel, _ := filepath.Rel(b.Root, name); err == nil && rel != bucketKey && bytes.Contains(data, []byte(secret)) {
			b.t.Errorf("the secret is in %s", rel)
		}
		return err
	})
	if err != nil {
		b.t.Error(err)
	}
}

// TestBackupBucket: a site is written to a bucket, once the node has
// credentials for it.
func TestBackupBucket(t *testing.T) {
	s := s3test.Library(t)
	s.MakeBucket(t, "backups", false)
	b := bucketSite(t, s, "backups/sites")
	to := s.Target("backups/sites").URL

	// Without any, it says what to do.
	exit, out := b.while("", "backup", "--server")
	if exit != 1 || !strings.Contains(out, to) || !strings.Contains(out, `hint: put them into the file s3-credentials of a stick labelled HF-BACKUP`) {
		t.Errorf("exit code %d, %q", exit, out)
	}
	if k := b.status().BackupServer; k == nil || k.URL != to || k.AccessKey != "" || !strings.Contains(k.Missing, "backup credentials") {
		t.Errorf("the status has %+v", k)
	}
	if !strings.Contains(b.said(), "NO BACKUPS: they go to "+to+", and there are no credentials") {
		t.Errorf("said:\n%s", b.said())
	}

	// Those that the server does not know are not kept, nor what are none.
	const wrong = "not-the-secret-of-this"
	for stdin, want := range map[string]string{
		s3test.File(s3test.AccessKey, wrong): "it does not know these credentials",
		"nonsense":                           "want two lines",
	} {
		if exit, out := b.while(stdin, "backup", "credentials"); exit != 1 || !strings.Contains(out, want) {
			t.Errorf("exit code %d, %q", exit, out)
		}
	}
	if _, err := os.Stat(filepath.Join(b.Root, bucketKey)); err == nil {
		t.Error("they are kept")
	}
	b.hides(wrong)
	exit, out = b.while(s3test.File(s3test.AccessKey, s3test.Secret), "backup", "credentials")
	if exit != 0 || !strings.Contains(out, "the access key "+s3test.AccessKey+" is taken, and lets this node in: 0 backups of the site are there") {
		t.Fatalf("exit code %d, %q", exit, out)
	}
	if fi, err := os.Stat(filepath.Join(b.Root, bucketKey)); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi, err)
	}
	if k := b.status().BackupServer; k == nil || k.AccessKey != s3test.AccessKey || k.Missing != "" {
		t.Errorf("the status has %+v", k)
	}

	exit, made := b.while("", "backup", "--server")
	code := codeForm.FindString(made)
	if exit != 0 || code == "" {
		t.Fatalf("exit code %d, %q\n%s", exit, made, b.said())
	}
	there, err := s3.Open(t.Context(), s.Target("backups/sites"), s3test.Credentials(t, s3test.AccessKey, s3test.Secret))
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	names, err := there.List()
	if err != nil || len(names) != 1 || !strings.HasSuffix(names[0], backup.Suffix) {
		t.Fatalf("in the bucket: %q, %v", names, err)
	}
	f, err := there.Open(names[0])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, err := backup.CodeOf(f); err != nil || got != code {
		t.Errorf("the bucket has %s, %v, want %s", got, err, code)
	}
	if st := b.status(); st.Backup == nil || st.Backup.Code != code || st.Backup.File != names[0] {
		t.Errorf("the status has %+v", st.Backup)
	}
	if _, err := os.Stat(filepath.Join(b.Root, "var/lib/holdfast/backup-unread")); err == nil {
		t.Error("it is noted that the backup was not read back")
	}
	b.hides(s3test.Secret, out, made)

	// A server that is not there, or another in its place, is told and harms nothing.
	s.Stop()
	if exit, out := b.while("", "backup", "--server"); exit != 1 || !strings.Contains(out, "is it switched on") {
		t.Errorf("exit code %d, %q", exit, out)
	}
	s.Start(t)
	b.backups["authority"], _ = s3test.Certificates(t)
	k := key(t)
	b.trust(k)
	b.seed(k, mac)
	if exit, out := b.while("", "backup", "--server"); exit != 1 || !strings.Contains(out, "backups.authority") {
		t.Errorf("exit code %d, %q", exit, out)
	}
	if now, err := there.List(); err != nil || !slices.Equal(now, names) {
		t.Errorf("in the bucket: %q, %v", now, err)
	}
	b.hides(s3test.Secret)
}

// TestCredentialsOnStick: those on a stick are taken once somebody says so.
func TestCredentialsOnStick(t *testing.T) {
	s := s3test.Library(t)
	s.MakeBucket(t, "backups", false)
	b := bucketSite(t, s, "backups")
	until := func(want string) {
		t.Helper()
		for range 2000 {
			if strings.Contains(b.said(), want) {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatalf("no %q in:\n%s", want, b.said())
	}
	b.startAnd("waiting for the API server since 1", func() {
		b.write(stick+"s3-credentials", s3test.File(s3test.AccessKey, s3test.Secret))
		b.write("dev/disk/by-label/HF-BACKUP", "")
		until("the stick has credentials: the access key " + s3test.AccessKey + ", for " + s.Target("backups").URL)
		b.typed <- "backup"
		until(`that is not "credentials": nothing is done`)
		if _, err := os.Stat(filepath.Join(b.Root, bucketKey)); err == nil {
			t.Error("they are taken before somebody says so")
		}
		b.typed <- "credentials"
		until("destroy the file s3-credentials on the stick")
	})
	if got := b.read(bucketKey); !strings.Contains(got, s3test.Secret) {
		t.Error("others are kept")
	}
	b.remove(stick + "s3-credentials")
	b.hides(s3test.Secret)
	// On a stick without them, a backup is offered.
	b.remove("dev/disk/by-label/HF-BACKUP")
	b.console.Reset()
	b.startAnd("waiting for the API server since 1", func() {
		b.write("dev/disk/by-label/HF-BACKUP", "")
		until("a stick for backups is there")
	})
}
