package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/qemu-tests/prove"
	"holdfast.dev/holdfast/signing"
)

// writeProof writes the report, its signature and the page, each whole.
func writeProof(base string, r prove.Report, sign func(signing.Statement) ([]byte, error)) error {
	doc, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot write the report: %w", err)
	}
	doc = append(doc, '\n')
	digest := store.FromBytes(doc)
	var page bytes.Buffer
	if err := prove.Page(&page, r, string(digest)); err != nil {
		return fmt.Errorf("cannot write the page: %w", err)
	}
	name := base + ".proof.json"
	// One that is there is of another report.
	if err := os.Remove(name + ".sig"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot write the report: %w", err)
	}
	if err := writeFile(name, doc); err != nil {
		return err
	}
	if sign != nil {
		signed, err := sign(signing.Statement{
			Name: r.Name, Release: uint64(r.Release), Zone: r.Zone, File: filepath.Base(name),
			Digest: string(digest), Size: int64(len(doc)), Index: r.Index,
		})
		if err != nil {
			return err
		}
		if err := writeFile(name+".sig", signed); err != nil {
			return err
		}
	}
	return writeFile(base+".proof.html", page.Bytes())
}

// showProof says what was proven; what was not is an error.
func (a *app) showProof(r prove.Report, page string) error {
	if a.json {
		a.event(map[string]any{"event": "proof", "report": r, "page": page})
	} else {
		for _, f := range r.Outside {
			a.printf("outside: %s: %s to %s %s, %d packets\n", strings.Join(f.Who, ", "), f.Proto, f.To,
				strings.TrimSpace(strings.Join(append(f.Said, askedFor(f)), " ")), f.Packets)
		}
		for _, t := range r.Attempts {
			a.printf("counted by the node, on no wire: %s: %s to %s, %d packets\n", t.Who, t.Proto, t.To, t.Packets)
		}
		for _, f := range r.Faults {
			a.printf("no proof: %s\n", f)
		}
		var frames int64
		for _, w := range r.Wire {
			frames += w.Frames
		}
		a.printf("%s %d: %d frames in %d recordings, %d kinds of packets to elsewhere\npage: %s\n", r.Name, r.Release, frames, len(r.Wire), len(r.Outside), page)
	}
	switch {
	case len(r.Outside) > 0:
		return fmt.Errorf("%w: the site reached outside", errPolicy)
	case !r.Contained:
		return fmt.Errorf("%w: nothing is proven by this recording", errPolicy)
	}
	if !a.json {
		a.printf("nothing reached outside\n")
	}
	return nil
}

func askedFor(f prove.Finding) string {
	if f.Asked == "" {
		return ""
	}
	return "asks for " + strconv.Quote(f.Asked)
}

// verifyProof checks who signed a report, that it is what was signed, and that
// its recordings, where they are, say the same.
func (a *app) verifyProof(name string) error {
	doc, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("cannot read the report: %w\nhint: \"holdfast lab prove\" makes one, out/NAME-RELEASE.proof.json", err)
	}
	if _, err := os.Stat(name + ".sig"); errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot verify %s: %w: it is not signed, or %s.sig did not travel with it", name, errPolicy, filepath.Base(name))
	}
	trust, err := a.trust("", "", 0)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot verify %s: %w\nhint: -C names the directory of the site, whose trust/policy.json says who may sign", name, errors.Unwrap(err))
	}
	if err != nil {
		return err
	}
	st, keys, err := readStatement(name, trust)
	if err != nil {
		return err
	}
	fail := func(format string, args ...any) error {
		return fmt.Errorf("cannot verify %s: %w: "+format, append([]any{name, errPolicy}, args...)...)
	}
	if got := store.FromBytes(doc); string(got) != st.Digest {
		return fail("its digest is %s, signed was %s", got, st.Digest)
	}
	var r prove.Report
	if err := json.Unmarshal(doc, &r); err != nil {
		return fail("%v", err)
	}
	if r.Format != prove.Format {
		return fail("its format is %d, this holdfast reads %d", r.Format, prove.Format)
	}
	if r.Index != st.Index || r.Name != st.Name || uint64(r.Release) != st.Release {
		return fail("it is about another release than its signature")
	}
	missing, err := prove.Again(r, filepath.Join(filepath.Dir(name), "prove"))
	if err != nil {
		return fail("%v", err)
	}
	if !a.json {
		for _, k := range keys.Keys {
			a.printf("signed by %s (%s)\n", k.Name, k.ID)
		}
		for _, m := range missing {
			a.printf("not read again, as it is not there: %s\n", m)
		}
	}
	return a.showProof(r, strings.TrimSuffix(name, ".json")+".html")
}
