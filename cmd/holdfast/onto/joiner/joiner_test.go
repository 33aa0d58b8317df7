package joiner_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"holdfast.dev/holdfast/cmd/holdfast/onto/joiner"
)

// TestCodeIsOfSource assembles the source, where this host can.
func TestCodeIsOfSource(t *testing.T) {
	for _, tool := range []string{"as", "objcopy"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("no binutils on this host")
		}
	}
	dir := t.TempDir()
	object, code := filepath.Join(dir, "joiner.o"), filepath.Join(dir, "joiner.bin")
	for _, args := range [][]string{
		{"as", "--64", "-o", object, "joiner.s.txt"},
		{"objcopy", "-O", "binary", "-j", ".text", object, code},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", args[0], err, out)
		}
	}
	got, err1 := os.ReadFile(code)
	want, err2 := os.ReadFile("joiner.bin")
	if err := errors.Join(err1, err2); err != nil || !bytes.Equal(got, want) {
		t.Errorf("joiner.bin is not what joiner.s.txt gives: assemble it as the source's first lines say (%v)", err)
	}
}

// TestJoins starts this test's own program from parts.
func TestJoins(t *testing.T) {
	if os.Getenv("JOINED") != "" {
		return // it was started by the joiner
	}
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	join := filepath.Join(dir, "joiner")
	if err := os.WriteFile(join, joiner.ELF(), 0o755); err != nil {
		t.Fatal(err)
	}
	args := []string{"registry"}
	third := len(b)/3 + 1
	for i := 0; i*third < len(b); i++ {
		name := filepath.Join(dir, string(rune('a'+i)))
		if err := os.WriteFile(name, b[i*third:min((i+1)*third, len(b))], 0o644); err != nil {
			t.Fatal(err)
		}
		args = append(args, name)
	}
	run := func(args ...string) (string, int) {
		cmd := exec.Command(join, args...)
		cmd.Env = []string{"JOINED=1"}
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return string(out), cmd.ProcessState.ExitCode()
	}
	if out, code := run(append(args, "--", "-test.run=TestJoins", "-test.v")...); code != 0 || !bytes.Contains([]byte(out), []byte("--- PASS: TestJoins")) {
		t.Errorf("the joined program ended with %d and said %q", code, out)
	}
	for _, c := range []struct {
		args []string
		code int
	}{
		{nil, 114},
		{[]string{"name"}, 114},
		{args, 114}, // no "--"
		{[]string{"name", filepath.Join(dir, "none"), "--"}, 112},
		{[]string{"name", join + "x", "--"}, 112},
		{[]string{"name", "joiner.s.txt", "--"}, 113},
	} {
		if out, code := run(c.args...); code != c.code {
			t.Errorf("%q ended with %d, want %d: %s", c.args, code, c.code, out)
		}
	}
}
