package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Names lists the images of a file or directory by their full names, sorted:
// an OCI layout, or what "docker save" writes, which leaves Docker's own
// registry out. Images without a name are left out.
func Names(file string) ([]string, error) {
	names, err := archiveNames(file)
	if err != nil {
		return nil, fmt.Errorf("cannot list the images of %s: %w", file, err)
	}
	return names, nil
}

func archiveNames(file string) ([]string, error) {
	a, err := openArchive(file)
	if err != nil {
		return nil, err
	}
	defer a.Close()
	im := importer{archive: a}
	var index ocispec.Index
	var saved []struct{ RepoTags []string }
	there := 0
	for _, doc := range []struct {
		name string
		to   any
	}{{"index.json", &index}, {"manifest.json", &saved}} {
		b, err := im.small(doc.name, maxManifest)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = json.Unmarshal(b, doc.to)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", doc.name, err)
		}
		there++
	}
	if there == 0 {
		return nil, errors.New("it has no index.json and no manifest.json")
	}
	var found []string
	for _, d := range index.Manifests {
		found = append(found, d.Annotations["io.containerd.image.name"])
		if ref := d.Annotations[ocispec.AnnotationRefName]; strings.Contains(ref, "/") {
			found = append(found, ref)
		}
	}
	for _, m := range saved {
		found = append(found, m.RepoTags...)
	}
	var out []string
	for _, f := range found {
		if f == "" {
			continue
		}
		full, err := fullName(f)
		if err != nil {
			return nil, err
		}
		out = append(out, full)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// fullName writes out what Docker leaves of a name, and what manifests write.
func fullName(s string) (string, error) {
	t, err := name.NewTag(s)
	if err != nil {
		return "", fmt.Errorf("image name %.200q: %w", s, err)
	}
	host := t.RegistryStr()
	if host == name.DefaultRegistry {
		host = "docker.io"
	}
	return host + "/" + t.RepositoryStr() + ":" + t.TagStr(), nil
}
