package catalog

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/goccy/go-yaml"

	"holdfast.dev/holdfast/image/gobuild"
)

// Recipes returns the Go recipes of all components, by component and name.
func Recipes() ([]gobuild.Recipe, error) { return loadRecipes(embedded) }

func loadRecipes(fsys fs.FS) ([]gobuild.Recipe, error) {
	dirs, err := fs.Glob(fsys, "components/*/recipes/*")
	if err != nil {
		return nil, fmt.Errorf("internal error: %w", err)
	}
	var out []gobuild.Recipe
	var errs []error
	seen := map[string]string{}
	for _, dir := range dirs {
		r, err := loadRecipe(fsys, dir)
		if err == nil && seen[r.Name] != "" {
			err = fmt.Errorf("cannot use %s: %s has a recipe of that name", dir, seen[r.Name])
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		seen[r.Name] = dir
		out = append(out, r)
	}
	return out, errors.Join(errs...)
}

// loadRecipe reads recipe.yaml, which lists the programs, and the module's
// files under the names that the go command knows.
func loadRecipe(fsys fs.FS, dir string) (gobuild.Recipe, error) {
	r := gobuild.Recipe{Name: path.Base(dir), Files: map[string][]byte{}}
	b, err := fs.ReadFile(fsys, path.Join(dir, "recipe.yaml"))
	if err != nil {
		return r, fmt.Errorf("cannot load recipe %s: %w", r.Name, err)
	}
	var doc struct {
		LDFlags  string            `yaml:"ldflags"` // of every program
		Tags     string            `yaml:"tags"`
		Programs []gobuild.Program `yaml:"programs"`
	}
	if err := yaml.UnmarshalWithOptions(b, &doc, yaml.Strict()); err != nil {
		return r, fmt.Errorf("cannot read %s/recipe.yaml: %w", dir, err)
	}
	for _, p := range doc.Programs {
		p.LDFlags = strings.Join(strings.Fields(doc.LDFlags+" "+p.LDFlags), " ")
		if p.Tags == "" {
			p.Tags = doc.Tags
		}
		r.Programs = append(r.Programs, p)
	}
	err = fs.WalkDir(fsys, dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel := strings.TrimPrefix(name, dir+"/")
		switch {
		case rel == "recipe.yaml":
			return nil
		case path.Base(rel) == "recipe.mod": // below the recipe, of a module that replaces another
			rel = path.Join(path.Dir(rel), "go.mod")
		case rel == "recipe.sum":
			rel = "go.sum"
		case strings.HasSuffix(rel, ".go.txt"):
			rel = strings.TrimSuffix(rel, ".txt")
		}
		b, err := fs.ReadFile(fsys, name)
		r.Files[rel] = b
		return err
	})
	if err != nil {
		return r, fmt.Errorf("cannot load recipe %s: %w", r.Name, err)
	}
	return r, r.Check()
}
