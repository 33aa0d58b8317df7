package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// In the tree this test is the program that is run, and tells what it sees.
func TestMain(m *testing.M) {
	if os.Args[0] != "/bin/probe" {
		os.Exit(m.Run())
	}
	switch os.Args[1] {
	case "files":
		entries, err := os.ReadDir("/")
		for _, e := range entries {
			fmt.Print(e.Name(), " ")
		}
		fmt.Println(err)
	case "environment":
		fmt.Println(os.Environ())
	case "write":
		fmt.Println(os.WriteFile("/file", []byte("text"), 0o644))
	case "devices":
		entries, err := os.ReadDir("/dev")
		for _, e := range entries {
			fmt.Print(e.Name(), " ")
		}
		zero := []byte{1}
		f, err2 := os.Open("/dev/zero")
		_, err3 := f.Read(zero)
		fmt.Println(zero, errors.Join(err, err2, err3))
	case "processes":
		all, err := filepath.Glob("/proc/[0-9]*")
		self, err2 := os.Readlink("/proc/self/exe")
		fmt.Println(all, self, errors.Join(err, err2))
	case "network":
		b, err := os.ReadFile("/proc/net/dev")
		fmt.Println(strings.Count(string(b), "\n"), strings.Contains(string(b), "lo:"), err)
	case "report":
		_, err := os.Readlink("/proc/self/fd/3")
		fmt.Println(errors.Is(err, os.ErrNotExist))
	case "fail":
		fmt.Fprintln(os.Stderr, "why")
		os.Exit(3)
	case "sleep":
		time.Sleep(time.Minute)
	}
}

// tree has a place for what is brought along, and the program.
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
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/bin/probe", b, 0o755); err != nil {
		t.Fatal(err)
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
