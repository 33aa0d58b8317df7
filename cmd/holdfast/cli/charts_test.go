package cli_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/rogpeppe/go-internal/testscript"

	"holdfast.dev/holdfast/airgap/store"
)

// chartCmd packs charts and offers them:
//
//	pack DIR FILE               a chart's folder as a .tgz
//	index DIR                   writes index.yaml for the archives NAME_VERSION.tgz in it
//	serve DIR                   offers it on the loopback, as $CHARTS
//	push FILE REPOSITORY:TAG    puts it into the registry, as Helm does
func chartCmd(ts *testscript.TestScript, _ bool, args []string) {
	switch args[0] {
	case "pack":
		dir := ts.MkAbs(args[1])
		ts.Check(ts.Exec("tar", "-czf", ts.MkAbs(args[2]), "-C", filepath.Dir(dir), filepath.Base(dir)))
	case "index":
		ts.Check(os.WriteFile(filepath.Join(ts.MkAbs(args[1]), "index.yaml"), []byte(chartIndex(ts, ts.MkAbs(args[1]))), 0o644))
	case "serve":
		l, err := net.Listen("tcp", "127.0.0.1:0")
		ts.Check(err)
		srv := &http.Server{Handler: http.FileServer(http.Dir(ts.MkAbs(args[1])))}
		go func() { _ = srv.Serve(l) }()
		ts.Defer(func() { _ = srv.Close() })
		ts.Setenv("CHARTS", "http://"+l.Addr().String())
	case "push":
		b, err := os.ReadFile(ts.MkAbs(args[1]))
		ts.Check(err)
		im, err := mutate.AppendLayers(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), "application/vnd.cncf.helm.config.v1+json"),
			static.NewLayer(b, "application/vnd.cncf.helm.chart.content.v1.tar+gzip"))
		ts.Check(err)
		ts.Check(ts.Value(registryKey{}).(*testRegistry).Put(args[2], im))
	default:
		ts.Fatalf("chart %s: not known", args[0])
	}
}

func chartIndex(ts *testscript.TestScript, dir string) string {
	files, err := filepath.Glob(filepath.Join(dir, "*.tgz"))
	ts.Check(err)
	var out strings.Builder
	out.WriteString("apiVersion: v1\nentries:\n")
	for _, f := range files {
		b, err := os.ReadFile(f)
		ts.Check(err)
		name, version, _ := strings.Cut(strings.TrimSuffix(filepath.Base(f), ".tgz"), "_")
		fmt.Fprintf(&out, "  %s:\n  - {version: %q, urls: [%q], digest: %s}\n", name, version, filepath.Base(f), store.FromBytes(b).Hex())
	}
	return out.String()
}
