package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"holdfast.dev/holdfast/qemu-tests/lab"
)

// table is what was measured of one part.
type table struct {
	rows [][4]string
	text string // instead of rows
}

func (t *table) add(what, holdfast, other, note string) {
	fmt.Fprintf(os.Stderr, "%s: %s, %s, %s\n", what, holdfast, other, note)
	t.rows = append(t.rows, [4]string{what, holdfast, other, note})
}

// boots takes the times that the last boot test left.
func boots(_ context.Context, t *table) error {
	doc, err := os.ReadFile(".cache/boot.json")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	type boot struct{ NodeReady, Healthy float64 }
	var b struct {
		Accel        string
		Date         time.Time
		First, Later boot
		Timings      []struct {
			Step    string
			Seconds float64
		}
	}
	if err := json.Unmarshal(doc, &b); err != nil {
		return err
	}
	var s strings.Builder
	fmt.Fprintf(&s, "Boots in the lab with %s (boot test of %s), in seconds after power-on, or after the command to reboot:\n\n", b.Accel, b.Date.Format("2006-01-02"))
	s.WriteString("| boot | node ready | all healthy |\n|---|---|---|\n")
	fmt.Fprintf(&s, "| first | %.0f (aim: 240) | %.0f (aim: 60 later) |\n", b.First.NodeReady, b.First.Healthy)
	fmt.Fprintf(&s, "| later | %.0f (aim: 180) | %.0f |\n", b.Later.NodeReady, b.Later.Healthy)
	if len(b.Timings) > 0 {
		s.WriteString("\nWhere the agent's time goes at a later boot:\n\n| step | seconds |\n|---|---|\n")
		for _, step := range b.Timings {
			if step.Seconds >= 0.5 {
				fmt.Fprintf(&s, "| %s | %.1f |\n", step.Step, step.Seconds)
			}
		}
	}
	t.text = s.String()
	return nil
}

// write puts the table between the part's marks in a Markdown file, and leaves
// the rest as it is. What was not measured leaves all of it.
func (t *table) write(name, part, where string) error {
	if len(t.rows) == 0 && t.text == "" {
		return nil
	}
	old, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	begin, end := "<!-- measured: "+part+"; \"make bench\" writes what follows -->\n", "<!-- end of "+part+" -->\n"
	before, rest, ok := strings.Cut(string(old), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return fmt.Errorf("cannot find %q and %q in %s", begin, end, name)
	}
	var s strings.Builder
	fmt.Fprintf(&s, "\n*%s*: %s.\n\n%s", part, where, t.text)
	if len(t.rows) > 0 {
		s.WriteString("| what | holdfast | the other tool | |\n|---|---|---|---|\n")
	}
	for _, r := range t.rows {
		fmt.Fprintf(&s, "| %s |\n", strings.Join(r[:], " | "))
	}
	s.WriteString("\n")
	tmp := name + ".partial"
	if err := os.WriteFile(tmp, []byte(before+begin+s.String()+end+after), 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, name)
}

// surroundings are when and of what a measure is, and on which machine.
func surroundings() string {
	return fmt.Sprintf("%s, commit %s, on %d cores%s, %s", time.Now().UTC().Format("2006-01-02"), commit(), runtime.NumCPU(), model(), accel())
}

func commit() string {
	out, err := exec.Command("git", "describe", "--always", "--exclude=*", "--dirty= with changes").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// model is the processor's name, where it has one.
func model() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	_, rest, ok := strings.Cut(string(b), "model name\t: ")
	name, _, _ := strings.Cut(rest, "\n")
	if !ok {
		return ""
	}
	return " (" + strings.TrimSpace(name) + ")"
}

// accel is how the lab would run a guest here.
func accel() string {
	a := lab.Host{}.Probe(context.Background())
	return fmt.Sprintf("guests under %s", a.Name)
}
