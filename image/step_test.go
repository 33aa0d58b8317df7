package image

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/image/oci"
	"holdfast.dev/holdfast/image/rootfs"
	"holdfast.dev/holdfast/image/sandbox"
)

// What the program of the image does, told by its arguments.
const stepProgram = `package main

import (
	"fmt"
	"os"
	"strings"
	"syscall"
)

func main() {
	for _, a := range os.Args[1:] {
		what, name, _ := strings.Cut(a, "=")
		var err error
		switch what {
		case "copy":
			var b []byte
			if b, err = os.ReadFile("/tool/text"); err == nil {
				err = os.WriteFile(name, append(b, os.Getenv("SAY")...), 0o600)
			}
		case "remove":
			err = os.Remove(name)
		case "program":
			err = os.WriteFile(name, nil, 0o700)
		case "link":
			err = os.Symlink("made", name)
		case "pipe":
			err = syscall.Mkfifo(name, 0o600)
		case "say":
			fmt.Println(strings.Repeat("early\n", 2000) + name)
		case "fail":
			os.Exit(4)
		}
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
}
`

func TestStep(t *testing.T) {
	if err := sandbox.Check(); err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{"main.go": stepProgram, "go.mod": "module step\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("go", "build", "-o", "step", ".")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	put := func(name string) store.Content {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		c, err := s.Write(f)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	program := put("step")
	compose := func(say string, args ...string) (string, error) {
		c := Container{
			Name:     "registry.example/a:1",
			Programs: []ContainerFile{{Path: "bin/step", Program: program}},
			Files:    []rootfs.File{{Path: "out/old", Mode: rootfs.TypeRegular | 0o644, Data: rootfs.Bytes("old")}},
			Steps: []Step{{
				Run: append([]string{"/bin/step"}, args...), Env: []string{"SAY=" + say}, Keep: "out",
				Files: []rootfs.File{{Path: "tool/text", Mode: rootfs.TypeRegular | 0o644, Data: rootfs.Bytes("text ")}},
			}},
			Config: oci.Config{Entrypoint: []string{"/bin/step"}},
		}
		m, err := ComposeContainer(t.Context(), s, c, store.FromBytes(nil), nil)
		if err != nil {
			return "", err
		}
		layers, _, err := oci.Base(s, m)
		if err != nil {
			return "", err
		}
		if len(layers) != 2 {
			t.Errorf("%d layers, want that of the program and that of the step", len(layers))
		}
		at := t.TempDir()
		root, err := os.OpenRoot(at)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		if err := oci.Unpack(t.Context(), s, layers[1:], root); err != nil {
			return "", err
		}
		var found []string
		names, err := namesBelow(root, ".")
		for _, n := range names {
			info, serr := root.Lstat(n)
			if serr != nil {
				t.Fatal(serr)
			}
			text, _ := os.ReadFile(filepath.Join(at, n))
			found = append(found, n+" "+info.Mode().String()+" "+string(text))
		}
		return strings.Join(found, ", "), err
	}

	const want = "out/link Lrwxrwxrwx text one, out/made -rw-r--r-- text one, out/old -rw-r--r-- old, out/run -rwxr-xr-x "
	if got, err := compose("one", "copy=/out/made", "program=/out/run", "link=/out/link", "copy=/elsewhere"); err != nil || got != want {
		t.Errorf("%v: %q, want %q", err, got, want)
	}
	// What goes into a step makes another image, and what it said tells why it failed.
	if got, err := compose("two", "copy=/out/made"); err != nil || !strings.Contains(got, "text two") {
		t.Errorf("%v: %q", err, got)
	}
	for _, c := range []struct{ args, want string }{
		{"fail", "cannot compose image registry.example/a:1: /bin/step: exit status 4\nit said last:\nearly\n"},
		{"remove=/out/old program=/out/run", "the step removed /out/old, which a layer below has"},
		{"remove=/out/old", "the step left nothing in /out"},
		{"pipe=/out/pipe", "the step left /out/pipe, which is neither"},
	} {
		_, err := compose("", append([]string{"say=the last line"}, strings.Fields(c.args)...)...)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasSuffix(err.Error(), "the last line") || len(err.Error()) > 5<<10 {
			t.Errorf("%s: error is %v, want %q", c.args, err, c.want)
		}
	}
	left, err := os.ReadDir(filepath.Join(s.Dir(), "tmp"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
