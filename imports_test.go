// Package holdfast_test holds the rules of the layout that no compiler knows.
package holdfast_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

const module = "holdfast.dev/holdfast/"

// pkg is a package of this module; names of own packages are without the module's.
type pkg struct {
	Name, ImportPath, Dir string
	GoFiles               []string
	Imports, Deps         []string
}

var packages = sync.OnceValues(func() (map[string]pkg, error) {
	var stderr bytes.Buffer
	cmd := exec.Command("go", "list", "-json=Name,ImportPath,Dir,GoFiles,Imports,Deps", "./...")
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, errors.New(stderr.String())
	}
	own := func(names []string) []string {
		for i, n := range names {
			names[i] = strings.TrimPrefix(n, module)
		}
		return names
	}
	all := map[string]pkg{}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		p.Imports, p.Deps = own(p.Imports), own(p.Deps)
		all[strings.TrimPrefix(p.ImportPath, module)] = p
	}
})

func load(t *testing.T) map[string]pkg {
	t.Helper()
	all, err := packages()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 20 {
		t.Fatalf("only %d packages found", len(all))
	}
	return all
}

// below reports whether name is one of the folders, or in one.
func below(name string, folders ...string) bool {
	return slices.ContainsFunc(folders, func(f string) bool { return name == f || strings.HasPrefix(name, f+"/") })
}

// Only airgap/origin/* dials.
func TestOnlyOriginsDial(t *testing.T) {
	// What is allowed beside, and why.
	allowed := map[string]string{
		"airgap/serve net/http":                                                          "a handler; that it has no client is seen below",
		"cmd/holdfast-agent/agent/monitor net/http":                                      "answers the site's monitoring",
		"cmd/holdfast-agent/agent net/http":                                              "the server around that handler",
		"cmd/holdfast-agent/agent net.DialUnix":                                          "tells systemd that it is ready, on a socket of this machine",
		"cmd/holdfast-agent/agent/apply client-go":                                       "the API server of its own node or site",
		"cmd/holdfast-agent/agent/images google.golang.org/grpc":                         "containerd, on a socket of this machine",
		"cmd/holdfast-agent/agent/images google.golang.org/grpc/credentials/insecure":    "containerd, on a socket of this machine",
		"cmd/holdfast-agent/agent/sandboxes google.golang.org/grpc":                      "containerd, on a socket of this machine",
		"cmd/holdfast-agent/agent/sandboxes google.golang.org/grpc/credentials/insecure": "containerd, on a socket of this machine",
		"cmd/holdfast-agent/agent/probe net/http":                                        "pods of its own node: what their readiness probe is answered, and what they warn of",
		"cmd/holdfast-agent/agent/probe http.Client":                                     "the same",
		"cmd/holdfast-agent/agent/probe http.Transport":                                  "the same",
		"cmd/holdfast-agent/agent/probe http.NewRequestWithContext":                      "the same",
		"cmd/holdfast-agent/agent/probe crypto/tls":                                      "the same; nobody vouches for them, as for the kubelet",
		"cmd/holdfast-agent/agent/netpol client-go":                                      "the API server of its own node",
		"cmd/holdfast-registry/registry net/http":                                        "what it brings into a cluster: a store, and what reads from it on each node",
		"cmd/holdfast-registry/registry http.Transport":                                  "from a node to that store, at an address that it is given",
		"cmd/holdfast/onto net/http":                                                     "names of methods; it asks by client-go",
		"cmd/holdfast/onto client-go":                                                    "the API server of the cluster that an operator names",
		"cmd/holdfast/cli client-go":                                                     "reads the kubeconfig for it",
		"cmd/holdfast-agent/agent/sftp net.Dialer":                                       "the server on the site's network that backups go to",
		"cmd/holdfast-agent/agent/sftp golang.org/x/crypto/ssh":                          "the same",
		"cmd/holdfast-agent/agent/sftp/sftptest golang.org/x/crypto/ssh":                 "its other side, for tests",
		"cmd/holdfast-agent/agent/s3 net/http":                                           "the server on the site's network that backups go to",
		"cmd/holdfast-agent/agent/s3 crypto/tls":                                         "the same; only the site's own authorities vouch for it",
		"cmd/holdfast-agent/agent/s3 http.Transport":                                     "the same",
		"cmd/holdfast-agent/agent/s3 net.Dialer":                                         "the same",
		"cmd/holdfast-agent/agent/s3 github.com/minio/minio-go":                          "the same",
		"cmd/holdfast-agent/agent/s3/s3test net/http":                                    "its other side, for tests",
		"cmd/holdfast-agent/agent/s3/s3test crypto/tls":                                  "its other side, for tests",
		"cmd/holdfast-agent/agent/s3/s3test http.Transport":                              "asks that side what it has",
		"cmd/holdfast-agent/agent/s3/s3test github.com/minio/minio-go":                   "asks that side what it has",
		"overlays golang.org/x/crypto/ssh":                                               "reads public keys",
		"cmd/holdfast/cli net/http":                                                      "makes the client that the origins use",
		"cmd/holdfast/cli http.Client":                                                   "makes the client that the origins use",
		"cmd/holdfast/cli http.Transport":                                                "makes the client that the origins use",
		"cmd/holdfast/cli net.Dialer":                                                    "makes the client that the origins use",
		"qemu-tests/distribution net/http":                                               "a registry on the loopback, for tests, and a proxy before it",
		"qemu-tests/distribution crypto/tls":                                             "their certificate",
		"qemu-tests/distribution http.Transport":                                         "from the proxy to the registry",
		"qemu-tests/distribution net.DialTimeout":                                        "waits until the registry listens",
		"qemu-tests/distribution github.com/google/go-containerregistry/pkg/v1/remote":   "fills the registry",
		"qemu-tests/sink net/http":                                                       "answers a lab's machine; that it has no client is seen below",
		"qemu-tests/sink crypto/tls":                                                     "answers a lab's machine",
		"qemu-tests/sink golang.org/x/net/dns/dnsmessage":                                "reads questions and writes answers, on no socket",
		"qemu-tests/lab net.Dialer":                                                      "the virtual machine's control socket, a file",
	}
	used := map[string]bool{}
	for name, p := range load(t) {
		if below(name, "airgap/origin") {
			continue
		}
		found := map[string]bool{}
		for _, im := range p.Imports {
			switch {
			case im == "net/http", im == "net/rpc", im == "net/smtp", im == "crypto/tls", im == "golang.org/x/crypto/ssh":
				found[im] = true
			case strings.HasPrefix(im, "k8s.io/client-go/"):
				found["client-go"] = true
			case strings.HasPrefix(im, "github.com/minio/minio-go/"):
				found["github.com/minio/minio-go"] = true
			case strings.HasPrefix(im, "golang.org/x/net/"), strings.HasPrefix(im, "google.golang.org/grpc"), strings.HasSuffix(im, "/v1/remote"):
				found[im] = true
			}
		}
		dials := regexp.MustCompile(`^(net\.(Dial.*|Lookup.*|Resolver|DefaultResolver)|http\.(Get|Head|Post|PostForm|Client|DefaultClient|Transport|DefaultTransport|NewRequest.*))$`)
		for s := range selectors(t, p) {
			if dials.MatchString(s) {
				found[s] = true
			}
		}
		for what := range found {
			if _, ok := allowed[name+" "+what]; !ok {
				t.Errorf("%s uses %s: only airgap/origin/* dials", name, what)
			}
			used[name+" "+what] = true
		}
	}
	for a, why := range allowed {
		if !used[a] {
			t.Errorf("nothing needs the exception %s (%s) any more", a, why)
		}
	}
}

// selectors are the names like net.Dial that p's files use.
func selectors(t *testing.T, p pkg) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	for _, name := range p.GoFiles {
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		imported := map[string]bool{}
		for _, im := range f.Imports {
			path, err := strconv.Unquote(im.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if im.Name != nil && slices.Contains([]string{"net", "net/http", "fmt", "os", "log"}, path) {
				t.Errorf("%s imports %s under another name, which hides it from these rules", name, path)
			}
			imported[path[strings.LastIndex(path, "/")+1:]] = true
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := s.X.(*ast.Ident); ok && imported[x.Name] {
					found[x.Name+"."+s.Sel.Name] = true
				}
			}
			return true
		})
	}
	return found
}

// The lowest packages, which others build on, import none of those above them.
func TestLowestPackages(t *testing.T) {
	all := load(t)
	for name, p := range all {
		for _, low := range []string{"signing", "overlays", "airgap/store"} {
			if !below(name, low) {
				continue
			}
			for _, d := range p.Deps {
				if _, own := all[d]; own && !below(d, low) {
					t.Errorf("%s imports %s", name, d)
				}
			}
		}
	}
}

// What runs on a node neither assembles images nor fetches anything.
func TestAgent(t *testing.T) {
	agent, ok := load(t)["cmd/holdfast-agent"]
	if !ok {
		t.Fatal("no agent")
	}
	onNode := map[string]bool{
		"image/rootfs": true, // what others take their trees from
		"image/slot":   true, // fills and checks slots, with what it reads partition tables, trees and kernels by:
		"image/disk":   true,
		"image/verity": true,
		"image/uki":    true,
	}
	for _, d := range agent.Deps {
		if strings.HasPrefix(d, "github.com/sigstore/") {
			t.Errorf("the agent links %s", d)
		}
		if below(d, "image") && !onNode[d] || d == "airgap" || below(d, "airgap/origin", "overlays", "cmd/holdfast", "qemu-tests") {
			t.Errorf("the agent links %s", d)
		}
	}
}

// Only cmd joins image, bundles and what fetches; nothing imports cmd but cmd.
func TestOnlyCmdJoins(t *testing.T) {
	for name, p := range load(t) {
		if below(name, "cmd") {
			continue
		}
		for _, d := range p.Deps {
			switch {
			case below(d, "cmd"):
				t.Errorf("%s imports %s", name, d)
			case below(name, "image") && below(d, "bundles"), below(name, "bundles") && d == "image":
				t.Errorf("%s imports %s: cmd joins them", name, d)
			}
		}
		for _, im := range p.Imports {
			if below(im, "airgap/origin") && name != "airgap" && !below(name, "airgap/origin") {
				t.Errorf("%s imports %s: origins are reached through airgap", name, im)
			}
		}
	}
}

// Libraries print nothing and do not end the program.
func TestLibrariesAreSilent(t *testing.T) {
	speaks := regexp.MustCompile(`^(fmt\.Print.*|log\.(Print|Fatal|Panic).*|os\.(Exit|Stdout|Stderr))$`)
	for name, p := range load(t) {
		if below(name, "cmd") || p.Name == "main" {
			continue
		}
		for s := range selectors(t, p) {
			// In the namespaces image/sandbox is the whole program.
			if speaks.MatchString(s) && name+" "+s != "image/sandbox os.Exit" {
				t.Errorf("%s uses %s", name, s)
			}
		}
		if base := filepath.Base(name); slices.Contains([]string{"util", "utils", "common", "helpers"}, base) {
			t.Errorf("%s says nothing about what it holds", name)
		}
	}
}
