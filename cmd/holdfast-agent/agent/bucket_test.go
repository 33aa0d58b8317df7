package agent

import (
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/s3"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/s3/s3test"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/status"
)

// bucketOn is a place on a server, of a machine that has nothing else.
func bucketOn(t *testing.T, s *s3test.Server, place string) bucket {
	t.Helper()
	a := &agent{Reporter: status.New(filepath.Join(t.TempDir(), "s"), nil, slog.New(slog.NewTextHandler(io.Discard, nil)), time.Now), host: Host{Root: t.TempDir()}}
	if err := os.MkdirAll(a.host.path("/var/lib/holdfast"), 0o755); err != nil {
		t.Fatal(err)
	}
	b, err := s3.Open(t.Context(), s.Target(place), s3test.Credentials(t, s3test.AccessKey, s3test.Secret))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return bucket{b, a, "demo"}
}

func (b bucket) put(t *testing.T, name string) {
	t.Helper()
	f, err := b.create(b.draft(name))
	if err == nil {
		_, err = f.Write([]byte(name))
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (b bucket) has(t *testing.T, want ...string) {
	t.Helper()
	slices.Sort(want)
	got, err := b.list()
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("there are %q, %v, want %q", got, err, want)
	}
}

const (
	backup1 = "demo-9-20261125T120000Z.holdfast-backup"
	backup2 = "demo-9-20261126T120000Z.holdfast-backup"
	backup3 = "demo-10-20261127T120000Z.holdfast-backup"
	backup4 = "demo-10-20261128T120000Z.holdfast-backup"
	foreign = "other-1-20200101T000000Z.holdfast-backup"
)

// The oldest go, of this site alone; each that may not be removed is told.
func TestDropFromBucket(t *testing.T) {
	s := s3test.Library(t)
	s.MakeBucket(t, "backups", false)
	b := bucketOn(t, s, "backups/a")
	for _, name := range []string{foreign, backup1, backup2, backup3} {
		b.put(t, name)
		if err := b.rename(b.draft(name), name); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.a.dropBackups(b, "demo", 2); err != nil {
		t.Fatal(err)
	}
	b.has(t, foreign, backup2, backup3)
	// A node that may not remove anything makes backups all the same.
	s.Refuse(func(r *http.Request) bool {
		return r.Method == http.MethodDelete || r.URL.Query().Has("uploads") && r.Method == http.MethodGet
	})
	b.put(t, backup1)
	if err := b.rename(backup1, backup1); err != nil {
		t.Fatal(err)
	}
	err := b.a.dropBackups(b, "demo", 1)
	if err == nil || strings.Count(err.Error(), "cannot remove an old backup: ") != 2 || !strings.Contains(err.Error(), "must be allowed") {
		t.Errorf("%v", err)
	}
	b.has(t, foreign, backup1, backup2, backup3)
}

// What a try left that did not come to its end is removed by the next: parts of
// a file, and a whole file that was not read back. Others' stays.
func TestAfterPowerCut(t *testing.T) {
	s := s3test.Library(t)
	s.MakeBucket(t, "backups", false)
	b, other := bucketOn(t, s, "backups/a"), bucketOn(t, s, "backups/a")
	other.site = "other"
	// begin writes a part and goes no further.
	begin := func(b bucket, name string) {
		t.Helper()
		f, err := b.create(name)
		if err == nil {
			_, err = f.Write(make([]byte, s.Target("").PartSize))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	uploads := func(name string) int { t.Helper(); return s.Uploads(t, "backups", "a/"+name) }
	begin(other, foreign)
	begin(b, backup1)
	b.has(t)
	b.put(t, backup2) // whole, and never read back
	if n, m := uploads(backup1), uploads(foreign); n != 0 || m != 1 {
		t.Errorf("of the site %d uploads are left, of another %d", n, m)
	}
	b.has(t, backup2)
	if notes, err := b.a.notedUnread(); err != nil || !slices.Equal(notes, []string{b.String() + " " + backup2}) {
		t.Errorf("noted is %q, %v", notes, err)
	}
	b.put(t, backup3)
	if err := b.rename(backup3, backup3); err != nil {
		t.Fatal(err)
	}
	b.has(t, backup3)
	if _, err := os.Stat(b.a.host.path(unreadFile)); err == nil {
		t.Error("it is noted that a backup was not read back")
	}
	// One that was read back stays, and what is noted of another place.
	elsewhere := "s3://10.0.2.9/backups " + backup3
	if err := b.a.noteUnread([]string{elsewhere}); err != nil {
		t.Fatal(err)
	}
	// What may not be removed now is removed once it may.
	b.put(t, backup1)
	s.Refuse(func(r *http.Request) bool { return r.Method == http.MethodDelete })
	b.put(t, backup2)
	b.has(t, backup1, backup2, backup3)
	s.Refuse(func(*http.Request) bool { return false })
	b.put(t, backup4)
	if err := b.rename(backup4, backup4); err != nil {
		t.Fatal(err)
	}
	b.has(t, backup3, backup4)
	if notes, err := b.a.notedUnread(); err != nil || !slices.Equal(notes, []string{elsewhere}) {
		t.Errorf("noted is %q, %v", notes, err)
	}
}
