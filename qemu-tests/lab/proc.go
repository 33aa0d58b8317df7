package lab

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// process names one process for good: a pid alone is used again.
type process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks since the host's boot
	Boot  string `json:"boot"`  // the host's boot id
}

func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// startTime is fields 3 and 22 of proc_pid_stat(5).
func startTime(pid int) (state byte, ticks uint64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	// The command's name is in parentheses and may itself hold any of them.
	i := bytes.LastIndexByte(b, ')')
	f := strings.Fields(string(b[i+1:]))
	if i < 0 || len(f) < 20 {
		return 0, 0, fmt.Errorf("cannot read /proc/%d/stat", pid)
	}
	ticks, err = strconv.ParseUint(f[19], 10, 64)
	return f[0][0], ticks, err
}

func identify(pid int) (process, error) {
	_, ticks, err := startTime(pid)
	return process{pid, ticks, bootID()}, err
}

// alive reports whether p still runs; a zombie does not.
func (p process) alive() bool {
	state, ticks, err := startTime(p.PID)
	return err == nil && p.PID > 0 && p.Boot == bootID() && ticks == p.Start && state != 'Z' && state != 'X'
}

// kill ends p if it is still the process that was started. The handle is taken
// before the check, so that a pid used again in between is not hit.
func (p process) kill() error {
	h, err := os.FindProcess(p.PID)
	if err != nil {
		return err
	}
	defer h.Release()
	if !p.alive() {
		return nil
	}
	if err := h.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("cannot end QEMU (pid %d): %w", p.PID, err)
	}
	return nil
}

// readProcess returns a process that is not alive where there is no record.
func readProcess(dir string) process {
	var p process
	if b, err := os.ReadFile(filepath.Join(dir, "qemu.pid")); err != nil || json.Unmarshal(b, &p) != nil {
		return process{}
	}
	return p
}

// writeJSON writes name whole or not at all.
func writeJSON(name string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}
