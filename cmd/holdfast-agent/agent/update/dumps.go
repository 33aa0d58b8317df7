package update

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/atomicfile"
)

// Dumps are components of a release whose data were kept before an update, or
// are to be put back after the way back from it.
type Dumps struct {
	Release    uint64   `json:"release"`
	Components []string `json:"components"`
}

// The first lies beside the copy of the datastore and goes with it; what it says
// becomes the second when the copy is put back.
const (
	dumpsFile    = DatastoreDir + "/dumps.json"
	PutBacksFile = "/var/lib/holdfast/put-back.json"
)

// KeepDumps notes what was dumped, in place of what an earlier update did.
func (m Machine) KeepDumps(d Dumps) error {
	if err := os.MkdirAll(m.path(DatastoreDir), 0o700); err != nil {
		return fmt.Errorf("cannot note what was dumped: %w", err)
	}
	return writeDumps(m.path(dumpsFile), d)
}

// PutBacks are the dumps that are to be put back before the running release's
// components start; none if it is another release's.
func (m Machine) PutBacks(running uint64) ([]string, error) {
	d, err := readDumps(m.path(PutBacksFile))
	if d.Release != running {
		return nil, err
	}
	return d.Components, err
}

// SetPutBacks notes what is left.
func (m Machine) SetPutBacks(d Dumps) error {
	if len(d.Components) > 0 {
		return writeDumps(m.path(PutBacksFile), d)
	}
	err := os.Remove(m.path(PutBacksFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return errors.Join(err, syncPath(filepath.Dir(m.path(PutBacksFile))))
}

// dumpsBack has the dumps of that release put back.
func (m Machine) dumpsBack(release uint64) error {
	d, err := readDumps(m.path(dumpsFile))
	if err != nil || d.Release != release || len(d.Components) == 0 {
		return err
	}
	return writeDumps(m.path(PutBacksFile), d)
}

func writeDumps(name string, d Dumps) error {
	b, err := json.Marshal(d)
	if err == nil {
		err = atomicfile.Write(name, append(b, '\n'), 0o600)
	}
	return err
}

// readDumps reads none where there is no file.
func readDumps(name string) (d Dumps, err error) {
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return d, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &d)
	}
	if err != nil {
		err = fmt.Errorf("cannot tell which data are to be put back: %s: %w", name, err)
	}
	return d, err
}
