package maven

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	fetch "holdfast.dev/holdfast/airgap/origin/http"
	"holdfast.dev/holdfast/airgap/store"
)

// Item is an artifact to fetch.
type Item struct {
	Name    string // group:artifact:version:type
	Content store.Content
}

// Client is how repositories are reached.
type Client struct {
	Repositories []string // base URLs, in the order in which they are tried
	fetch.Client
}

var coordinates = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*:[A-Za-z0-9_.-]+:[A-Za-z0-9][A-Za-z0-9_.-]*:[a-z0-9]+(\.[a-z0-9]+)*$`)

// Path is where repositories have the artifact group:artifact:version:type.
func Path(name string) (string, error) {
	if !coordinates.MatchString(name) || strings.Contains(name, "..") {
		return "", fmt.Errorf("cannot read artifact %q: want group:artifact:version:type", name)
	}
	f := strings.Split(name, ":")
	return fmt.Sprintf("%s/%s/%s/%s-%s.%s", strings.ReplaceAll(f[0], ".", "/"), f[1], f[2], f[1], f[2], f[3]), nil
}

// Fetch brings items into the store, as [fetch.Client.Fetch] does.
func Fetch(ctx context.Context, c *Client, s *store.Store, items []Item, progress func(done, total int64, name string)) error {
	var files []fetch.Item
	var errs []error
	for _, it := range items {
		p, err := Path(it.Name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if s.Check(it.Content) == nil {
			continue
		}
		f := fetch.Item{Content: it.Content, Name: it.Name, Gone: "name a repository that has it, under mirrors.maven in site.yaml"}
		if c != nil {
			for _, base := range c.Repositories {
				f.Sources = append(f.Sources, fetch.Source{URL: base + "/" + p})
			}
		}
		if len(f.Sources) == 0 {
			errs = append(errs, fmt.Errorf("cannot fetch %s: %w\nhint: list one under mirrors.maven in site.yaml, or set %s", it.Name, ErrNoRepository, Env))
			continue
		}
		files = append(files, f)
	}
	if len(files) > 0 {
		errs = append(errs, c.Client.Fetch(ctx, s, files, progress))
	}
	return errors.Join(errs...)
}
