package s3_test

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/s3"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/s3/s3test"
)

func TestLibrary(t *testing.T) { s3test.Check(t, s3test.Library(t)) }

// TestMinIO is run in full by TestBackupsInMinIO of the command line, which
// compiles it.
func TestMinIO(t *testing.T) {
	file := os.Getenv("MINIO")
	if file == "" {
		t.Skip("MINIO=FILE names no MinIO")
	}
	s3test.Check(t, s3test.Program(t, file, t.TempDir()))
}

// A server whose disk is full says so, and nothing is there of the file.
func TestFullDisk(t *testing.T) {
	file := os.Getenv("MINIO")
	if file == "" {
		t.Skip("MINIO=FILE names no MinIO")
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can make a small disk")
	}
	disk := t.TempDir()
	if err := unix.Mount("small", disk, "tmpfs", 0, "size=40m"); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(disk, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s := s3test.Program(t, file, disk)
	s.MakeBucket(t, "backups", false)
	b, err := s3.Open(t.Context(), s.Target("backups"), s3test.Credentials(t, s3test.AccessKey, s3test.Secret))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	f, err := b.Create("a")
	if err == nil {
		_, err = f.Write(make([]byte, 60<<20))
	}
	if err == nil || !strings.Contains(err.Error(), "hint: it has no room") {
		t.Errorf("%v", err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if names, err := b.List(); err != nil || len(names) > 0 {
		t.Errorf("there are %q, %v", names, err)
	}
}

func TestOpen(t *testing.T) {
	authority, _ := s3test.Certificates(t)
	k := s3test.Credentials(t, "AKID", "some-secret")
	for _, c := range []struct{ url, authority, want string }{
		{"s3://10.0.2.9/backups", "", "no certificate of an authority"},
		{"s3://10.0.2.9/backups", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "no certificate of an authority"},
		{"s3://10.0.2.9/", authority, "want s3://"},
		{"s3://10.0.2.9", authority, "want s3://"},
		{"s3:///backups", authority, "want s3://"},
		{"s3://AKID:secret@10.0.2.9/backups", authority, "want s3://"},
		{"https://10.0.2.9/backups", authority, "want s3://"},
		{"s3://10.0.2.9/backups/../others", authority, "want s3://"},
	} {
		if _, err := s3.Open(t.Context(), s3.Target{URL: c.url, Authority: c.authority}, k); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.url, err)
		}
	}
	for _, url := range []string{"s3://10.0.2.9/backups", "s3://[fd00::9]:9000/backups/a/b", "s3://nas.demo.example/backups"} {
		if _, err := s3.Open(t.Context(), s3.Target{URL: url, Authority: authority}, k); err != nil {
			t.Error(err)
		}
	}
}

// What speaks no TLS, answers nonsense or is full is told as that.
func TestAnswers(t *testing.T) {
	authority, cert := s3test.Certificates(t)
	answer := func(code int, body string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code); fmt.Fprint(w, body) })
	}
	fault := func(code, message string) string {
		return "<Error><Code>" + code + "</Code><Message>" + message + "</Message></Error>"
	}
	for _, c := range []struct {
		name  string
		plain bool
		h     http.Handler
		want  string
	}{
		{"no TLS", true, answer(200, ""), "it does not speak TLS"},
		{"another region", false, answer(400, fault("AuthorizationHeaderMalformed", "the region is wrong; expecting 'site-1'")), "backups.region"},
		{"full", false, answer(507, fault("XMinioStorageFull", "Storage backend has reached its minimum free drive threshold.")), "it has no room"},
		{"full, as others say it", false, answer(403, fault("QuotaExceeded", "no")), "it has no room"},
		{"clock", false, answer(403, fault("RequestTimeTooSkewed", "no")), "give both a time server"},
		{"not allowed", false, answer(403, fault("AccessDenied", "Access\x1bDenied")), "must be allowed to list the bucket backups"},
		{"not S3", false, answer(404, "<html>"), "backups"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := httptest.NewUnstartedServer(c.h)
			if c.plain {
				s.Start()
			} else {
				s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
				s.StartTLS()
			}
			defer s.Close()
			b, err := s3.Open(t.Context(), s3.Target{URL: "s3://" + s.Listener.Addr().String() + "/backups", Authority: authority}, s3test.Credentials(t, "AKID", "some-secret"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := b.Create("a"); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "some-secret") || strings.ContainsRune(err.Error(), 0x1b) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestCredentials(t *testing.T) {
	const secret = "some/secret+of=somebody"
	for name, text := range map[string]string{
		"two lines":  "AKID\n" + secret + "\n",
		"AWS' file":  "[default]\naws_access_key_id = AKID\naws_secret_access_key = " + secret + "\n",
		"no heading": "# of the site\r\nAWS_ACCESS_KEY_ID=AKID\r\n\r\nAWS_SECRET_ACCESS_KEY=" + secret,
		"a mark":     "\ufeffAKID\n" + secret,
	} {
		c, err := s3.Parse(strings.NewReader(text))
		if err != nil || c.AccessKey != "AKID" {
			t.Errorf("%s: %v, %v", name, c, err)
			continue
		}
		if said := fmt.Sprintf("%v %+v %#v %s", c, c, c, c); strings.Contains(said, secret) {
			t.Errorf("printed, they show the secret: %s", said)
		}
		file := filepath.Join(t.TempDir(), "made", "s3-credentials")
		if err := c.WriteFile(file); err != nil {
			t.Fatal(err)
		}
		if again, err := s3.ReadFile(file); err != nil || again != c {
			t.Errorf("%s: kept, they are others: %v", name, err)
		}
		if fi, err := os.Stat(file); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", fi.Mode(), err)
		}
	}
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"nothing":       {"\n# nothing\n", []string{"want two lines"}},
		"one line":      {secret, []string{"want two lines"}},
		"no secret":     {"aws_access_key_id = AKID", []string{"no aws_secret_access_key"}},
		"two profiles":  {s3test.File("AKID", secret) + s3test.File("OTHER", secret), []string{"line 5: a second aws_access_key_id", "line 6: a second aws_secret_access_key"}},
		"of a session":  {s3test.File("AKID", secret) + "aws_session_token = " + secret, []string{"line 4: these are for a session"}},
		"a strange one": {s3test.File("AKID", secret) + secret, []string{"line 4: neither"}},
		"both wrong":    {"A/B\nshort\x01", []string{"want an access key", "want a secret"}},
		"long":          {"AKID\n" + strings.Repeat("x", 20<<10), []string{"more than 16384 bytes"}},
		"blanks":        {"AKID\nsome secret of mine", []string{"want a secret"}},
	} {
		_, err := s3.Parse(strings.NewReader(c.text))
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: no %q in %v", name, w, err)
			}
		}
		if strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), "short") {
			t.Errorf("%s: the error shows the secret: %v", name, err)
		}
	}
}
