package provenance_test

import (
	"bytes"
	"reflect"
	"slices"
	"strings"
	"testing"

	slsa "github.com/in-toto/attestation/go/predicates/provenance/v1"
	intoto "github.com/in-toto/attestation/go/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"holdfast.dev/holdfast/bundles/provenance"
)

var sum = strings.Repeat("ab", 32)

func example() provenance.Statement {
	return provenance.New(
		[]provenance.Resource{
			{Name: "root.erofs", Digest: provenance.SHA256("sha256:" + sum), Annotations: map[string]any{"decompressed": "sha256:" + sum}},
			{Name: "registry.example/db:1", Digest: provenance.SHA256(sum), MediaType: "application/vnd.oci.image.manifest.v1+json"},
		},
		provenance.Build{
			Type:     provenance.ReleaseBuild,
			External: map[string]any{"name": "demo", "release": 7, "site": provenance.Resource{Name: "site.yaml", Digest: provenance.SHA256(sum)}},
			Internal: map[string]any{"epoch": 1700000000, "scriptsAcceptedUnread": []string{}},
			Dependencies: []provenance.Resource{
				{Name: "libc6=2.41", URI: "pkg:deb/debian/libc6@2.41?arch=amd64&distro=trixie", Digest: provenance.SHA256(sum)},
				{Name: "golang.org/x/mod", URI: "pkg:golang/golang.org/x/mod@v0.42.0", Digest: map[string]string{"dirHash": sum}},
				{Name: "component/db", Digest: provenance.SHA256(sum)},
			},
		}, "0.1.0")
}

func encode(t *testing.T, s provenance.Statement) []byte {
	t.Helper()
	b, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestReference has in-toto's own types read a statement, and validate it and
// its predicate.
func TestReference(t *testing.T) {
	var s intoto.Statement
	if err := protojson.Unmarshal(encode(t, example()), &s); err != nil {
		t.Fatal(err)
	}
	if err := s.Validate(); err != nil {
		t.Error(err)
	}
	predicate, err := protojson.Marshal(s.GetPredicate())
	if err != nil {
		t.Fatal(err)
	}
	var p slsa.Provenance
	if err := protojson.Unmarshal(predicate, &p); err != nil {
		t.Fatal(err)
	}
	if err := p.Validate(); err != nil {
		t.Error(err)
	}
	d := p.GetBuildDefinition()
	if s.GetSubject()[0].GetName() != "root.erofs" || s.GetSubject()[0].GetDigest()["sha256"] != sum ||
		d.GetBuildType() != provenance.ReleaseBuild || len(d.GetResolvedDependencies()) != 3 ||
		d.GetExternalParameters().AsMap()["name"] != "demo" || p.GetRunDetails().GetBuilder().GetVersion()["holdfast"] != "0.1.0" {
		t.Errorf("read %v", &s)
	}
}

func TestSameBytesInAnyOrder(t *testing.T) {
	a := encode(t, example())
	s := example()
	d := &s.Predicate.BuildDefinition.Dependencies
	slices.Reverse(*d)
	*d = append(*d, (*d)[0]) // what is there twice is there once
	if b := encode(t, s); !bytes.Equal(a, b) {
		t.Errorf("differ:\n%s\n%s", a, b)
	}
	got, err := provenance.Read(bytes.NewReader(a))
	if err != nil {
		t.Fatal(err)
	}
	again, err := provenance.Read(bytes.NewReader(encode(t, got)))
	if err != nil || !reflect.DeepEqual(again, got) || got.Subject[1].Name != "registry.example/db:1" {
		t.Errorf("read, written and read again:\n%v\n%v\n%v", got, again, err)
	}
	if !bytes.HasSuffix(a, []byte("}\n")) || bytes.Contains(a, []byte(`\u0026`)) || bytes.Contains(a, []byte("On\":")) {
		t.Errorf("it has a time, or does not end with a line, or is hard to read:\n%s", a)
	}
}

func TestRefused(t *testing.T) {
	for want, spoil := range map[string]func(*provenance.Statement){
		"no subject":           func(s *provenance.Statement) { s.Subject = nil },
		"is there twice":       func(s *provenance.Statement) { s.Subject[1].Name = s.Subject[0].Name },
		"has no SHA-256":       func(s *provenance.Statement) { s.Subject[0].Digest = map[string]string{"sha1": sum} },
		"64 lower-case":        func(s *provenance.Statement) { s.Subject[0].Digest = provenance.SHA256(strings.ToUpper(sum)) },
		"its dirHash":          func(s *provenance.Statement) { s.Predicate.BuildDefinition.Dependencies[1].Digest["dirHash"] = "h1:x" },
		"its type":             func(s *provenance.Statement) { s.Type = "https://in-toto.io/Statement/v0.1" },
		"its predicate":        func(s *provenance.Statement) { s.PredicateType = "x" },
		"its build type":       func(s *provenance.Statement) { s.Predicate.BuildDefinition.Type = "build" },
		"no external":          func(s *provenance.Statement) { s.Predicate.BuildDefinition.External = nil },
		"its builder":          func(s *provenance.Statement) { s.Predicate.RunDetails.Builder.ID = "" },
		"without name and URI": func(s *provenance.Statement) { s.Predicate.BuildDefinition.Dependencies[2].Name = "" },
		"not an absolute URI":  func(s *provenance.Statement) { s.Predicate.BuildDefinition.Dependencies[0].URI = "libc6" },
		"cannot write provenance": func(s *provenance.Statement) {
			s.Predicate.BuildDefinition.Internal["x"] = func() {}
		},
	} {
		s := example()
		spoil(&s)
		if b, err := s.Encode(); err == nil || !strings.Contains(err.Error(), want) || b != nil {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	s := example()
	s.Subject, s.Type = nil, ""
	if _, err := s.Encode(); err == nil || !strings.Contains(err.Error(), "no subject") || !strings.Contains(err.Error(), "its type") {
		t.Errorf("not all at once: %v", err)
	}
	for _, text := range []string{"", "[]", "{}", `{"lock":"x"}`, string(encode(t, example())) + "{}"} {
		if _, err := provenance.Read(strings.NewReader(text)); err == nil {
			t.Errorf("read %.40q", text)
		}
	}
	long := strings.NewReader(`{"_type":"` + strings.Repeat("x", provenance.MaxStatement))
	if _, err := provenance.Read(long); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("got %v", err)
	}
}

func TestDirHash(t *testing.T) {
	d, err := provenance.DirHash("h1:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=")
	if err != nil || d["dirHash"] != "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" {
		t.Errorf("got %v, %v", d, err)
	}
	for _, bad := range []string{"", "h1:", "h1:AAAA", "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", "h2:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="} {
		if _, err := provenance.DirHash(bad); err == nil {
			t.Errorf("%q passes", bad)
		}
	}
}

// Whatever a statement says, it is read or refused; what was read can be
// written.
func FuzzRead(f *testing.F) {
	b, err := example().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"_type":"https://in-toto.io/Statement/v1","subject":[{}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := provenance.Read(bytes.NewReader(b))
		if err != nil {
			return
		}
		if _, err := s.Encode(); err != nil {
			t.Error(err)
		}
	})
}
