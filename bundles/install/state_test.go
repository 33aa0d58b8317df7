package install

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func ref(n int8) Ref { return roots{0, 1, 2, 3}.ref(n) }

func TestStateIsReadAsWritten(t *testing.T) {
	name := filepath.Join(t.TempDir(), "update.json")
	if _, err := ReadState(name); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("got %v", err)
	}
	now := time.Unix(1700000000, 0)
	s := Fresh(ref(1), false)
	s.From, s.To, s.Slot = ref(1), ref(2), "b"
	s = s.at(Writing, now)
	s.Failed, s.Healthy = Failure{ref(2), "why", now.UTC()}, time.Minute
	for _, s := range []State{Fresh(ref(1), true), s, s.idle(now)} {
		if err := WriteState(name, s); err != nil {
			t.Fatal(err)
		}
		got, err := ReadState(name)
		if err != nil || !reflect.DeepEqual(got, s) {
			t.Errorf("got %+v, %v\nwant %+v", got, err, s)
		}
	}
	if es, err := os.ReadDir(filepath.Dir(name)); err != nil || len(es) != 1 {
		t.Errorf("%v, %v", es, err)
	}
}

func TestDamagedState(t *testing.T) {
	name := filepath.Join(t.TempDir(), "update.json")
	if err := WriteState(name, Fresh(ref(1), false)); err != nil {
		t.Fatal(err)
	}
	good := string(mustRead(t, name))
	for what, bad := range map[string]string{
		"empty":        "",
		"cut off":      good[:len(good)/2],
		"zeros":        strings.Repeat("\x00", len(good)),
		"no such step": strings.Replace(good, "idle", "dancing", 1),
		"no version":   strings.Replace(good, `"version": 1`, `"version": 0`, 1),
		"no release":   strings.Replace(good, `"release": 1`, `"release": 0`, 1),
		"no update":    strings.Replace(good, "idle", "trial", 1),
		"too long":     good + strings.Repeat(" ", maxState),
	} {
		mustWrite(t, name, []byte(bad))
		if _, err := ReadState(name); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "hint: ") {
			t.Errorf("%s: got %v", what, err)
		}
	}
	// What a newer release adds is passed over.
	mustWrite(t, name, []byte(strings.Replace(good, "{", `{"new": true,`, 1)))
	if _, err := ReadState(name); err != nil {
		t.Error(err)
	}
	if err := WriteState(name, State{}); err == nil {
		t.Error("a state that cannot be read was written")
	}
}

func FuzzState(f *testing.F) {
	f.Add([]byte(`{"version":1,"step":"idle"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseState(b)
		if err != nil {
			return
		}
		if s.Step != Idle && s.From.Release >= s.To.Release {
			t.Errorf("accepted %+v", s)
		}
	})
}
