package sandbox

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// tree has a place for what is brought along, and the program probe, which
// needs no library.
func tree(t *testing.T) string {
	t.Helper()
	if err := Check(); err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	for _, d := range []string{"bin", "proc", "dev"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("go", "build", "-o", dir+"/bin/probe", "./testdata/probe")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return dir
}

func TestRun(t *testing.T) {
	dir := tree(t)
	for _, c := range []struct{ see, want string }{
		{"files", "bin dev proc <nil>\n"},
		{"environment", "[A=b]\n"},
		{"write", "<nil>\n"},
		{"devices", "full null random urandom zero [0] <nil>\n"},
		{"processes", "[/proc/1] /bin/probe <nil>\n"},
		{"network", "3 true <nil>\n"}, // two lines of headings and the loopback
		{"report", "true\n"},          // nothing of what is told to the caller is left open
	} {
		t.Run(c.see, func(t *testing.T) {
			var out strings.Builder
			if err := Run(t.Context(), dir, []string{"/bin/probe", c.see}, []string{"A=b"}, &out); err != nil || out.String() != c.want {
				t.Errorf("%v: %q, want %q", err, out.String(), c.want)
			}
		})
	}
	if b, err := os.ReadFile(dir + "/file"); err != nil || string(b) != "text" {
		t.Errorf("it wrote %q, %v", b, err)
	}
}

func TestRunFails(t *testing.T) {
	dir := tree(t)
	var out strings.Builder
	for _, c := range []struct {
		dir  string
		argv []string
		want string
	}{
		{dir, nil, "whole path"},
		{dir, []string{"probe"}, "whole path"},
		{dir, []string{"/bin/missing"}, "cannot run /bin/missing: cannot start it: no such file"},
		{dir, []string{"/bin/probe", "fail"}, "/bin/probe: exit status 3"},
		{t.TempDir(), []string{"/bin/probe"}, "cannot mount /proc"},
	} {
		if err := Run(t.Context(), c.dir, c.argv, nil, &out); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.argv, err, c.want)
		}
	}
	if out.String() != "why\n" {
		t.Errorf("it said %q", out.String())
	}
	ctx, stop := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer stop()
	if err := Run(ctx, dir, []string{"/bin/probe", "sleep"}, nil, &out); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("stopped: %v", err)
	}
}

func TestForbidden(t *testing.T) {
	for err, want := range map[error]string{
		&os.PathError{Op: "fork/exec", Path: "/x", Err: syscall.ENOSPC}: "user.max_user_namespaces is reached",
		&os.PathError{Op: "fork/exec", Path: "/x", Err: syscall.EPERM}:  "operation not permitted",
	} {
		got := forbidden(err)
		if !errors.Is(got, ErrForbidden) || !strings.HasSuffix(got.Error(), want) {
			t.Errorf("%v: %v, want %q", err, got, want)
		}
	}
}
