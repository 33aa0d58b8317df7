package cli_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"holdfast.dev/holdfast/airgap"
	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles"
	"holdfast.dev/holdfast/cmd/holdfast/cli"
	"holdfast.dev/holdfast/signing"
)

// bundleCmd packs the smallest release there is.
func bundleCmd(ts *testscript.TestScript, _ bool, args []string) {
	site, name, release, zone := args[0], args[1], uint64(7), "official"
	if len(args) == 4 {
		n, err := strconv.ParseUint(args[2], 10, 63)
		ts.Check(err)
		release, zone = n, args[3]
	}
	s, err := store.Open(ts.MkAbs("bundle-store"))
	ts.Check(err)
	put := func(text string) store.Content {
		c, err := s.WriteBytes([]byte(text))
		ts.Check(err)
		return c
	}
	raw := put("raw")
	rel, err := bundles.Compose(s, bundles.ReleaseInput{
		Facts: bundles.Facts{Name: "demo", Release: release, Zone: zone, Domain: "demo.example", Version: "0.1.0", Epoch: 1700000000, RootHash: strings.Repeat("a", 64)},
		OS: []bundles.File{
			{Title: bundles.RootErofs, MediaType: bundles.MediaRoot, Content: put("the root"), Raw: raw},
			{Title: bundles.RootVerity, MediaType: bundles.MediaVerity, Content: put("the verity tree"), Raw: raw},
			{Title: bundles.UKI, MediaType: bundles.MediaUEFI, Content: put("the kernel")},
		},
		Site: put(`{"site":1}`), Node: put(`{"name":"demo"}`),
		SBOM: put(`{"spdxVersion":"SPDX-2.3","packages":[],"files":[]}`), Provenance: put(`{"lock":"x"}`),
	})
	ts.Check(err)
	key, err := signing.LoadPrivateKey(ts.MkAbs(filepath.Join(site, "keys", "release.key")))
	ts.Check(err)
	sig, err := signing.Sign(string(rel.Index.Digest), "demo:"+strconv.FormatUint(release, 10), key, nil)
	ts.Check(err)
	var b bytes.Buffer
	ts.Check(bundles.Pack(context.Background(), &b, s, rel, []signing.Signature{sig}, nil))
	ts.Check(os.WriteFile(ts.MkAbs(name), b.Bytes(), 0o644))
}

// composedCmd packs a release with provenance and SBOMs of small parts.
func composedCmd(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(cli.PackComposed(context.Background(), ts.MkAbs(args[0]), ts.MkAbs("composed-store"), ts.MkAbs(args[1])))
}

// buildSiteCmd wants success or, negated, an error with the words of its third
// argument.
func buildSiteCmd(ts *testscript.TestScript, neg bool, args []string) {
	err := cli.PackSite(context.Background(), ts.MkAbs(args[0]), ts.Getenv("HOLDFAST_CACHE"), ts.MkAbs(args[1]))
	if !neg {
		ts.Check(err)
	} else if err == nil || !strings.Contains(err.Error(), args[2]) {
		ts.Fatalf("the error is %v", err)
	}
}

// statementCmd signs a file as a raw image; with -old as holdfast did before
// statements had a digest of pieces.
func statementCmd(ts *testscript.TestScript, _ bool, args []string) {
	old := args[0] == "-old"
	if old {
		args = args[1:]
	}
	site, name := args[0], ts.MkAbs(args[1])
	b, err := os.ReadFile(name)
	ts.Check(err)
	key, err := signing.LoadPrivateKey(ts.MkAbs(filepath.Join(site, "keys", "release.key")))
	ts.Check(err)
	st := signing.Statement{
		Name: "demo", Release: 7, Zone: "official", File: filepath.Base(name),
		Digest: string(store.FromBytes(b)), Size: int64(len(b)), Index: string(store.FromBytes(nil)),
	}
	if !old {
		var pieces []byte
		for piece := range slices.Chunk(b, 256<<10) {
			sum := sha256.Sum256(piece)
			pieces = append(pieces, sum[:]...)
		}
		st.Pieces = signing.Pieces{Size: 256 << 10, Digest: string(store.FromBytes(pieces))}
	}
	signed, err := signing.SignStatement(st, key)
	ts.Check(err)
	ts.Check(os.WriteFile(name+".sig", signed, 0o644))
}

// extra packs the bundle anew with one file more at its end.
func extra(ts *testscript.TestScript, _ bool, args []string) {
	edit(ts, args[0], func(b []byte) []byte {
		var out bytes.Buffer
		r, w := tar.NewReader(bytes.NewReader(b)), tar.NewWriter(&out)
		for {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			ts.Check(err)
			ts.Check(w.WriteHeader(h))
			_, err = io.Copy(w, r)
			ts.Check(err)
		}
		ts.Check(w.WriteHeader(&tar.Header{Name: "blobs/sha256/" + store.FromBytes([]byte("x")).Hex(), Size: 1, Mode: 0o644, Format: tar.FormatUSTAR}))
		_, err := w.Write([]byte("x"))
		ts.Check(errors.Join(err, w.Close()))
		return out.Bytes()
	})
}

// spoilStore changes a byte of a locked package in the store, and leaves its
// size and times as they were: what only reading it again can find.
func spoilStore(ts *testscript.TestScript, _ bool, args []string) {
	l, err := airgap.ReadLock(ts.MkAbs(args[0]))
	ts.Check(err)
	for _, p := range l.Packages {
		if p.Name != args[1] {
			continue
		}
		s, err := store.Open(ts.Getenv("HOLDFAST_CACHE"))
		ts.Check(err)
		name := s.Path(p.Digest)
		fi, err := os.Stat(name)
		ts.Check(err)
		flip(ts, false, []string{name, "100"})
		ts.Check(os.Chtimes(name, fi.ModTime(), fi.ModTime()))
		return
	}
	ts.Fatalf("%s is not locked", args[1])
}
