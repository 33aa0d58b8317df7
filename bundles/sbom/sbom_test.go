package sbom_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/bundles/sbom"
)

func example() sbom.Input {
	sum := strings.Repeat("ab", 32)
	libc := sbom.Package{Kind: sbom.Deb, Name: "libc6", Version: "2.41-12", Source: "glibc", SHA256: sum,
		PURL: "pkg:deb/debian/libc6@2.41-12?arch=amd64&distro=trixie", License: "LGPL-2.1-or-later", Supplier: "Debian"}
	return sbom.Input{
		Name: "demo", Version: "1", Namespace: sbom.Namespace("sha256:" + sum),
		Created: time.Date(2026, 1, 2, 3, 4, 5, 6, time.FixedZone("", 3600)), Tool: "holdfast-0.1.0",
		Packages: []sbom.Package{
			libc,
			{Kind: sbom.File, Name: "usr/bin/<agent>", SHA256: sum},
			{Kind: sbom.Image, Name: "registry.k8s.io/pause:3.10.1", Version: "3.10.1", SHA256: sum,
				PURL: "pkg:oci/pause@sha256:" + sum, Contains: []sbom.Package{libc,
					{Kind: sbom.Golang, Name: "k8s.io/kubernetes", Version: "v1.36.3", PURL: "pkg:golang/k8s.io/kubernetes@v1.36.3", License: "Apache-2.0"}}},
			{Kind: sbom.Image, Name: "docker.io/library/postgres:17", Contains: []sbom.Package{libc}},
		},
	}
}

// TestRequiredFields checks what the specification makes mandatory, clause by
// clause.
func TestRequiredFields(t *testing.T) {
	var b bytes.Buffer
	if err := sbom.Write(&b, example()); err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(b.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	for field, want := range map[string]string{
		"spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT", "name": "demo 1",
		"documentNamespace": "https://holdfast.dev/spdx/" + strings.Repeat("ab", 32),
	} {
		if doc[field] != want {
			t.Errorf("%s: got %v, want %s", field, doc[field], want)
		}
	}
	info := doc["creationInfo"].(map[string]any)
	if info["created"] != "2026-01-02T02:04:05Z" || info["creators"].([]any)[0] != "Tool: holdfast-0.1.0" {
		t.Errorf("creationInfo: %v", info)
	}
	ids := map[string]string{"SPDXRef-DOCUMENT": "document"}
	form := regexp.MustCompile(`^SPDXRef-[a-zA-Z0-9.-]+$`)
	for _, p := range doc["packages"].([]any) {
		p := p.(map[string]any)
		id, _ := p["SPDXID"].(string)
		if !form.MatchString(id) || ids[id] != "" {
			t.Errorf("SPDXID %q is wrong or twice there", id)
		}
		ids[id], _ = p["name"].(string)
		for _, f := range []string{"name", "downloadLocation"} {
			if s, _ := p[f].(string); s == "" {
				t.Errorf("%s: no %s", id, f)
			}
		}
		if p["filesAnalyzed"] != false {
			t.Errorf("%s: files analysed", id)
		}
	}
	if len(ids) != 7 { // document, release, libc6 once, file, module, two images
		t.Errorf("elements: %v", ids)
	}
	var relations []string
	for _, r := range doc["relationships"].([]any) {
		r := r.(map[string]any)
		from, to := ids[r["spdxElementId"].(string)], ids[r["relatedSpdxElement"].(string)]
		if from == "" || to == "" {
			t.Errorf("a relationship to nothing: %v", r)
		}
		relations = append(relations, from+" "+r["relationshipType"].(string)+" "+to)
	}
	for _, want := range []string{
		"document DESCRIBES demo", "demo CONTAINS libc6", "demo CONTAINS usr/bin/<agent>",
		"registry.k8s.io/pause:3.10.1 CONTAINS libc6", "registry.k8s.io/pause:3.10.1 CONTAINS k8s.io/kubernetes",
		"docker.io/library/postgres:17 CONTAINS libc6",
	} {
		if !slices.Contains(relations, want) {
			t.Errorf("no relationship %q in %q", want, relations)
		}
	}
}

func TestSameBytesInAnyOrder(t *testing.T) {
	var a, b bytes.Buffer
	in := example()
	if err := sbom.Write(&a, in); err != nil {
		t.Fatal(err)
	}
	slices.Reverse(in.Packages)
	for _, p := range in.Packages {
		slices.Reverse(p.Contains)
	}
	if err := sbom.Write(&b, in); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Errorf("differ:\n%s\n%s", a.Bytes(), b.Bytes())
	}
}

func TestRefused(t *testing.T) {
	for name, spoil := range map[string]func(*sbom.Input){
		"no name":          func(in *sbom.Input) { in.Name = " " },
		"no namespace":     func(in *sbom.Input) { in.Namespace = "" },
		"fragment":         func(in *sbom.Input) { in.Namespace += "#x" },
		"no time":          func(in *sbom.Input) { in.Created = time.Time{} },
		"tool":             func(in *sbom.Input) { in.Tool = "a\nb" },
		"package no name":  func(in *sbom.Input) { in.Packages[0].Name = "" },
		"package kind":     func(in *sbom.Input) { in.Packages[0].Kind = "cargo" },
		"package sum":      func(in *sbom.Input) { in.Packages[0].SHA256 = "AB" },
		"package purl":     func(in *sbom.Input) { in.Packages[0].PURL = "deb/x" },
		"package license":  func(in *sbom.Input) { in.Packages[0].License = "LicenseRef-mine" },
		"package supplier": func(in *sbom.Input) { in.Packages[0].Supplier = "a\nb" },
		"inner package":    func(in *sbom.Input) { in.Packages[3].Contains[0].PURL = "x" },
		"deep": func(in *sbom.Input) {
			for range 9 {
				in.Packages = []sbom.Package{{Kind: sbom.Image, Name: "x", Contains: in.Packages}}
			}
		},
	} {
		in := example()
		spoil(&in)
		var b bytes.Buffer
		if err := sbom.Write(&b, in); err == nil || b.Len() != 0 {
			t.Errorf("%s: %v, %d bytes written", name, err, b.Len())
		}
	}
}

func TestAllFaultsAtOnce(t *testing.T) {
	in := example()
	in.Namespace, in.Packages[0].SHA256, in.Packages[1].SHA256 = "x", "y", "z"
	err := sbom.Write(&bytes.Buffer{}, in)
	for _, want := range []string{`"x"`, `"y"`, `"z"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestWriteError(t *testing.T) {
	if err := sbom.Write(full{}, example()); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Error(err)
	}
}

// TestReference has SPDX's own tool read the document.
func TestReference(t *testing.T) {
	var b bytes.Buffer
	if err := sbom.Write(&b, example()); err != nil {
		t.Fatal(err)
	}
	if !judge(t, b.String()) {
		t.Skip("pyspdxtools is not installed")
	}
}

// judge has SPDX's own tool read a document, where it is installed.
func judge(t *testing.T, doc string) bool {
	t.Helper()
	tool, err := exec.LookPath("pyspdxtools")
	if err != nil {
		return false
	}
	name := filepath.Join(t.TempDir(), "sbom.spdx.json")
	if err := os.WriteFile(name, []byte(doc), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(tool, "-i", name).CombinedOutput(); err != nil {
		t.Errorf("pyspdxtools: %v\n%s", err, out)
	}
	return true
}
