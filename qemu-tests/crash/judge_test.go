package crash_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"holdfast.dev/holdfast/image/disk"
	"holdfast.dev/holdfast/image/slot"
	"holdfast.dev/holdfast/qemu-tests/nbd"
)

// judge says what comes of states of one log. Verdicts are kept by what they
// are about.
type judge struct {
	db       []*x509.Certificate
	parts    []disk.Partition // as in the image
	size     int64
	memo     slot.Memo
	keys     map[int64][32]byte // by offset of a chunk: what the memo knows of
	known    map[[32]byte]boots
	distinct int
}

// boots is what firmware does, and what it does after the agent has cleaned up
// at boot.
type boots struct {
	first, normalized slot.Verdict
	names             []string // of the boot entries after that
	removed           []string
	err               error // what must not be
}

func newJudge(t *testing.T, l *nbd.Log, base *os.File, trust string) *judge {
	t.Helper()
	pemBytes, err := os.ReadFile(filepath.Join(trust, "db.crt"))
	must(t, err)
	block, _ := pem.Decode(pemBytes)
	cert, err := x509.ParseCertificate(block.Bytes)
	must(t, err)
	fi, err := base.Stat()
	must(t, err)
	parts, err := disk.ReadGPT(base, fi.Size())
	must(t, err)
	return &judge{db: []*x509.Certificate{cert}, parts: parts, size: l.Size(), keys: map[int64][32]byte{}, known: map[[32]byte]boots{}}
}

// chunk is how finely the judge tells the memo what changed.
const chunk = 8 << 20

// boots judges a state.
func (j *judge) boots(s *nbd.State) boots {
	h := sha256.New()
	type span struct{ off, n int64 }
	spans := []span{{0, j.parts[0].Start}, {j.size - 1<<20, 1 << 20}}
	for _, p := range j.parts {
		if p.TypeGUID != disk.TypeESP && !strings.HasPrefix(p.Name, "holdfast-root") && !strings.HasPrefix(p.Name, "holdfast-verity") {
			continue
		}
		for off := p.Start; off < p.Start+p.Size; off += chunk {
			spans = append(spans, span{off, min(chunk, p.Start+p.Size-off)})
		}
	}
	keys := make([][32]byte, len(spans))
	for i, x := range spans {
		keys[i] = s.Key(x.off, x.n)
		h.Write(keys[i][:])
	}
	all := [32]byte(h.Sum(nil))
	if b, ok := j.known[all]; ok {
		return b
	}
	for i, x := range spans {
		if j.keys[x.off] != keys[i] {
			j.keys[x.off] = keys[i]
			j.memo.Changed(x.off, x.n)
		}
	}
	j.distinct++
	b := j.look(s)
	j.known[all] = b
	return b
}

func (j *judge) look(s *nbd.State) (b boots) {
	if b.first, b.err = slot.Judge(s, j.size, j.db, &j.memo); b.err != nil {
		return b
	}
	if b.err = comesUp(b.first); b.err != nil {
		return b
	}
	// What the agent of that release does before it mounts the ESP.
	p := &pages{s, map[int64][]byte{}}
	defer func() {
		for at := range p.at {
			j.memo.Changed(at, pageSize)
		}
	}()
	if _, err := slot.RepairTable(p, j.size); err != nil {
		b.err = fmt.Errorf("the agent: %w", err)
		return b
	}
	parts, err := disk.ReadGPT(p, j.size)
	if err != nil {
		b.err = fmt.Errorf("after the table was mended: %w", err)
		return b
	}
	esp := parts[slices.IndexFunc(parts, func(p disk.Partition) bool { return p.TypeGUID == disk.TypeESP })]
	if b.removed, err = slot.Normalize(p, esp); err != nil {
		b.err = fmt.Errorf("the agent: %w", err)
		return b
	}
	for at := range p.at {
		j.memo.Changed(at, pageSize)
	}
	if b.normalized, b.err = slot.Judge(p, j.size, j.db, &j.memo); b.err != nil {
		return b
	}
	if err := comesUp(b.normalized); err != nil {
		b.err = fmt.Errorf("after the agent removed %q: %w", b.removed, err)
	}
	for _, before := range b.first.Boots {
		if before.Err == nil && !slices.ContainsFunc(b.normalized.Boots, func(x slot.Boot) bool { return x.Release == before.Release && x.Err == nil }) {
			b.err = errors.Join(b.err, fmt.Errorf("after the agent removed %q, release %d does not boot any more", b.removed, before.Release))
		}
	}
	for _, x := range b.normalized.Boots {
		b.names = append(b.names, x.Entry)
	}
	return b
}

// comesUp returns an error unless a release comes up.
func comesUp(v slot.Verdict) error {
	if v.First < 0 {
		return fmt.Errorf("nothing comes up: %s", describe(v))
	}
	return nil
}

// oneOf returns an error unless one of these releases comes up.
func (b boots) oneOf(may []int64) error {
	if b.err != nil {
		return b.err
	}
	for _, v := range []slot.Verdict{b.first, b.normalized} {
		if n := v.Boots[v.First].Release; !slices.Contains(may, n) {
			return fmt.Errorf("release %d comes up, which is none of %d", n, may)
		}
	}
	return nil
}

func describe(v slot.Verdict) string {
	var s strings.Builder
	fmt.Fprintf(&s, "loader: %v", v.Loader)
	for _, b := range v.Boots {
		fmt.Fprintf(&s, "; %s (release %d): %v", b.Entry, b.Release, b.Err)
	}
	return s.String()
}

// save keeps a state to be looked at: a sparse file.
func save(s *nbd.State, name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	err = copyRange(f, s, 0, s.Size(), 0)
	return errors.Join(err, f.Truncate(s.Size()), f.Close())
}

var zeros = make([]byte, 1<<20)

// copyRange copies what is not zero.
func copyRange(to *os.File, s *nbd.State, off, n, at int64) error {
	buf := make([]byte, min(1<<20, n))
	for done := int64(0); done < n; {
		b := buf[:min(int64(len(buf)), n-done)]
		if _, err := s.ReadAt(b, off+done); err != nil {
			return err
		}
		if !bytes.Equal(b, zeros[:len(b)]) {
			if _, err := to.WriteAt(b, at+done); err != nil {
				return err
			}
		}
		done += int64(len(b))
	}
	return nil
}
