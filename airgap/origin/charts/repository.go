// Package charts finds Helm charts in chart repositories: web servers, or
// directories, with an index.yaml.
package charts

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	fetch "holdfast.dev/holdfast/airgap/origin/http"
	"holdfast.dev/holdfast/airgap/store"
)

// MaxArchive bounds a packed chart, in bytes.
const MaxArchive = 32 << 20

// maxIndex bounds a repository's index, in bytes; large public ones have 20 MiB.
const maxIndex = 64 << 20

// ErrNone is wrapped by errors about a chart that a repository does not list.
var ErrNone = errors.New("the repository does not list it")

// Entry is a version of a chart as a repository lists it.
type Entry struct {
	URL    string       // of the archive; relative to the repository where it is below it
	Digest store.Digest // of the archive; empty where the repository gives none
}

// Find looks a version of a chart up in the repository at a URL.
func Find(ctx context.Context, c *fetch.Client, repository, name, version string) (Entry, error) {
	a, err := c.Get(ctx, fetch.Source{URL: base(repository) + "index.yaml"}, maxIndex)
	if err != nil {
		return Entry{}, fmt.Errorf("cannot read the repository's index: %w", err)
	}
	e, err := parseIndex(a.Body, name, version)
	if err != nil {
		return Entry{}, fmt.Errorf("cannot use %sindex.yaml: %w", base(repository), err)
	}
	full, err := Resolve(repository, e.URL)
	if err != nil {
		return Entry{}, err
	}
	e.URL = strings.TrimPrefix(full, base(repository))
	return e, nil
}

// Resolve is the full URL of an archive.
func Resolve(repository, archive string) (string, error) {
	b, err := url.Parse(base(repository))
	if err != nil {
		return "", fmt.Errorf("cannot use the repository's URL: %w", err)
	}
	u, err := b.Parse(archive)
	switch {
	case err != nil:
		return "", fmt.Errorf("cannot use the archive's URL %.200q: it is none", archive)
	case u.User != nil:
		return "", errors.New("cannot use the archive's URL: it holds a password")
	case u.Scheme != "https" && u.Scheme != b.Scheme:
		return "", fmt.Errorf("cannot use the archive's URL %.200q: %s from a repository that is asked by %s", archive, u.Scheme, b.Scheme)
	}
	return u.String(), nil
}

// Get reads an archive whole and checks it against the digest that the
// repository gives, if any.
func Get(ctx context.Context, c *fetch.Client, repository string, e Entry) ([]byte, error) {
	u, err := Resolve(repository, e.URL)
	if err != nil {
		return nil, err
	}
	a, err := c.Get(ctx, fetch.Source{URL: u}, MaxArchive)
	if err != nil {
		return nil, err
	}
	if got := store.FromBytes(a.Body); e.Digest != "" && got != e.Digest {
		return nil, fmt.Errorf("cannot use %s: %w: the repository's index says %s, it is %s", u, store.ErrMismatch, e.Digest, got)
	}
	return a.Body, nil
}

func base(repository string) string { return strings.TrimSuffix(repository, "/") + "/" }

type index struct {
	APIVersion string `json:"apiVersion"`
	Entries    map[string][]struct {
		Version string   `json:"version"`
		URLs    []string `json:"urls"`
		Digest  string   `json:"digest"`
	} `json:"entries"`
}

func parseIndex(b []byte, name, version string) (Entry, error) {
	var ix index
	if err := yaml.Unmarshal(b, &ix); err != nil {
		return Entry{}, fmt.Errorf("it is no index of charts: %w", err)
	}
	if ix.APIVersion != "v1" {
		return Entry{}, fmt.Errorf("it is no index of charts of version v1, but of %.20q", ix.APIVersion)
	}
	var versions []string
	for _, e := range ix.Entries[name] {
		if versions = append(versions, e.Version); e.Version != version {
			continue
		}
		if len(e.URLs) == 0 {
			return Entry{}, fmt.Errorf("chart %s %s has no URL in it", name, version)
		}
		out := Entry{URL: e.URLs[0]}
		if e.Digest != "" {
			d, err := store.ParseDigest("sha256:" + strings.TrimPrefix(e.Digest, "sha256:"))
			if err != nil {
				return Entry{}, fmt.Errorf("chart %s %s: %w", name, version, err)
			}
			out.Digest = d
		}
		return out, nil
	}
	there := "no version of it"
	if n := len(versions); n > 0 {
		there = strings.Join(versions[:min(n, 5)], ", ")
		if n > 5 {
			there += fmt.Sprintf(" and %d more", n-5)
		}
	} else {
		names := slices.Sorted(maps.Keys(ix.Entries))
		if n := len(names); n > 0 && n <= 20 {
			there = "the charts " + strings.Join(names, ", ")
		}
	}
	return Entry{}, fmt.Errorf("chart %s %s: %w: there is %s", name, version, ErrNone, there)
}
