package airgap_test

import (
	"slices"
	"testing"

	"holdfast.dev/holdfast/airgap"
	"holdfast.dev/holdfast/airgap/store"
)

func TestMissingArtifacts(t *testing.T) {
	s, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	there, err := s.WriteBytes([]byte("there"))
	if err != nil {
		t.Fatal(err)
	}
	l := airgap.Lock{Maven: []airgap.Artifact{
		{Name: "org.example:there:1:jar", Content: there},
		{Name: "org.example:gone:1:jar", Content: store.Content{Digest: store.FromBytes([]byte("gone")), Size: 4}},
		{Name: "org.example:cut:1:jar", Content: store.Content{Digest: there.Digest, Size: there.Size + 1}},
	}}
	if got, want := airgap.MissingArtifacts(l, s), []string{"org.example:gone:1:jar", "org.example:cut:1:jar"}; !slices.Equal(got, want) {
		t.Errorf("missing %v, want %v", got, want)
	}
}
