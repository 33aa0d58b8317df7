package s3test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/s3"
)

// Check holds the client against a server.
func Check(t *testing.T, s *Server) {
	s.MakeBucket(t, "backups", false)
	for _, c := range []struct {
		name string
		f    func(*testing.T, *Server)
	}{{"files", files}, {"refused", refused}, {"half written", halfWritten}, {"it dies", dies}, {"locked", locked}} {
		t.Run(c.name, func(t *testing.T) { c.f(t, s) })
	}
}

func (s *Server) open(t *testing.T, place string) *s3.Bucket {
	t.Helper()
	b, err := s3.Open(t.Context(), s.Target(place), Credentials(t, AccessKey, Secret))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func write(b *s3.Bucket, name string, data []byte) error {
	f, err := b.Create(name)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func read(b *s3.Bucket, name string) ([]byte, error) {
	r, err := b.Open(name)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(r)
	return data, errors.Join(err, r.Close())
}

func wantNames(t *testing.T, b *s3.Bucket, want ...string) {
	t.Helper()
	got, err := b.List()
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%s has %q, %v; want %q", b, got, err, want)
	}
}

// Files are written, of one part and of several, read back, listed and removed.
func files(t *testing.T, s *Server) {
	b, beside := s.open(t, "backups/sites/demo"), s.open(t, "backups")
	for _, size := range []int{0, 1 << 20, partSize, partSize + 1} {
		want := random(size)
		for range 1 + size%2 { // the second takes its place
			if err := write(b, "a", want); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := read(b, "a"); err != nil || !bytes.Equal(got, want) {
			t.Errorf("of %d bytes come back %d, %v", size, len(got), err)
		}
	}
	if err := write(beside, "other", []byte("it")); err != nil {
		t.Fatal(err)
	}
	wantNames(t, b, "a")
	wantNames(t, beside, "other")
	// A file that is not ended never was.
	f, err := b.Create("b")
	if err == nil {
		_, err = f.Write(random(partSize + 1))
	}
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	wantNames(t, b, "a")
	if n := s.Uploads(t, "backups", "sites/demo/b"); n != 0 {
		t.Errorf("%d uploads are left", n)
	}
	for range 2 {
		if err := b.Remove("a"); err != nil {
			t.Error(err)
		}
	}
	wantNames(t, b)
	wantNames(t, beside, "other")
}

// What cannot be done is said with a remedy, and with no secret.
func refused(t *testing.T, s *Server) {
	const other = "another secret of somebody"
	otherAuthority, _ := Certificates(t)
	good := s.Target("backups")
	for _, c := range []struct {
		name string
		to   s3.Target
		k    s3.Credentials
		want []string
	}{
		{"another secret", good, Credentials(t, AccessKey, strings.ReplaceAll(other, " ", "-")), []string{s3.ErrRefused.Error(), "SignatureDoesNotMatch", "hint: "}},
		{"another key", good, Credentials(t, "NOBODY", Secret), []string{s3.ErrRefused.Error(), "InvalidAccessKeyId", "hint: "}},
		{"another authority", s3.Target{URL: good.URL, Authority: otherAuthority}, Credentials(t, AccessKey, Secret), []string{"unknown authority", "backups.authority"}},
		{"another name", s3.Target{URL: strings.Replace(good.URL, "127.0.0.1", "localhost", 1), Authority: good.Authority}, Credentials(t, AccessKey, Secret), []string{"localhost", "must have the address"}},
		{"no bucket", s.Target("missing"), Credentials(t, AccessKey, Secret), []string{"NoSuchBucket", "make the bucket missing"}},
		{"nobody there", s3.Target{URL: "s3://127.0.0.1:1/backups", Authority: good.Authority}, Credentials(t, AccessKey, Secret), []string{"refused", "is it switched on"}},
	} {
		b, err := s3.Open(t.Context(), c.to, c.k)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		_, list := b.List()
		for _, err := range []error{list, write(b, "a", []byte("it"))} {
			if err == nil {
				t.Errorf("%s: no error", c.name)
				continue
			}
			said := fmt.Sprintf("%v %+v %q", err, err, err)
			for _, w := range append(c.want, c.to.URL) {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%s: no %q in %v", c.name, w, err)
				}
			}
			for _, secret := range []string{Secret, strings.ReplaceAll(other, " ", "-")} {
				if strings.Contains(said, secret) {
					t.Errorf("%s: the error shows the secret", c.name)
				}
			}
		}
		b.Close()
	}
	if _, err := read(s.open(t, "backups"), "missing"); err == nil || !strings.Contains(err.Error(), "NoSuchKey") {
		t.Errorf("a file that is not there: %v", err)
	}
}

// Only what is mine is dropped of what others began too.
func halfWritten(t *testing.T, s *Server) {
	b := s.open(t, "backups/half")
	for _, name := range []string{"demo-1", "demo-2-1", "other-1"} {
		f, err := b.Create(name)
		if err == nil {
			_, err = f.Write(random(partSize)) // and never closed
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	// MinIO lists them by their whole names alone.
	for _, start := range []string{"demo-", "demo-1"} {
		if err := b.AbortUploads(start, func(name string) bool { return name == "demo-1" }); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]int{"demo-1": 0, "demo-2-1": 1, "other-1": 1} {
		if n := s.Uploads(t, "backups", "half/"+name); n != want {
			t.Errorf("of %s %d uploads are left, want %d", name, n, want)
		}
	}
	wantNames(t, b)
}

// A server that dies leaves nothing under the file's name, and the next try
// makes it.
func dies(t *testing.T, s *Server) {
	b := s.open(t, "backups/dies")
	f, err := b.Create("a")
	if err == nil {
		_, err = f.Write(random(partSize))
	}
	if err != nil {
		t.Fatal(err)
	}
	s.Stop()
	_, err = f.Write(random(partSize))
	if err == nil {
		t.Error("a part is written, and nobody is there")
	}
	if err := f.Close(); err == nil {
		t.Error("what is half written is dropped, and nobody is there")
	}
	s.Start(t)
	wantNames(t, b)
	if n := s.Uploads(t, "backups", "dies/a"); n != 1 {
		t.Errorf("%d uploads are left", n)
	}
	if err := b.AbortUploads("a", func(string) bool { return true }); err != nil {
		t.Error(err)
	}
	want := random(partSize + 1)
	if err := write(b, "a", want); err != nil {
		t.Fatal(err)
	}
	if got, err := read(b, "a"); err != nil || !bytes.Equal(got, want) {
		t.Errorf("come back %d, %v", len(got), err)
	}
	if n := s.Uploads(t, "backups", "dies/a"); n != 0 {
		t.Errorf("%d uploads are left", n)
	}
	// One that dies while it is read says so.
	r, err := b.Open("a")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s.Stop()
	if _, err := io.Copy(io.Discard, r); err == nil {
		t.Error("a file comes back whole from a server that is not there")
	}
	s.Start(t)
}

// Where the bucket keeps what is removed, it is written to all the same.
func locked(t *testing.T, s *Server) {
	if !s.Locks {
		t.Skip("this server has no such buckets")
	}
	s.MakeBucket(t, "locked", true)
	b := s.open(t, "locked")
	for _, name := range []string{"a", "b"} {
		if err := write(b, name, []byte(name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Remove("a"); err != nil {
		t.Error(err)
	}
	wantNames(t, b, "b")
}
