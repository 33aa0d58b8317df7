package bundles_test

import (
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestImports keeps small what the agent links with this package.
func TestImports(t *testing.T) {
	allowed := []string{
		"holdfast.dev/holdfast/airgap/store", "holdfast.dev/holdfast/image/rootfs", "holdfast.dev/holdfast/signing",
		"github.com/klauspost/compress/zstd", // the root as a patch; the agent decompresses roots with it anyway
		"holdfast.dev/holdfast/bundles/sbom", // standard library only; Diff compares packages, on a node too
		"github.com/opencontainers/go-digest", "github.com/opencontainers/image-spec/specs-go", "github.com/opencontainers/image-spec/specs-go/v1",
	}
	// Its signed variable updates are signing's; standard library only.
	signing := []string{"holdfast.dev/holdfast/signing/authenticode"}
	for dir, ok := range map[string][]string{".": allowed, "../signing": signing, "../signing/authenticode": nil} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatal(files, err)
		}
		for _, name := range files {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
			if err != nil {
				t.Fatal(err)
			}
			for _, im := range f.Imports {
				p, err := strconv.Unquote(im.Path.Value)
				if err != nil {
					t.Fatal(err)
				}
				if strings.Contains(p, ".") && !slices.Contains(ok, p) {
					t.Errorf("%s imports %s", name, p)
				}
			}
		}
	}
}
