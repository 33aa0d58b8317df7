package cli

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"holdfast.dev/holdfast/airgap"
	"holdfast.dev/holdfast/airgap/origin/debian"
	"holdfast.dev/holdfast/airgap/origin/gomod"
	fetch "holdfast.dev/holdfast/airgap/origin/http"
	"holdfast.dev/holdfast/airgap/origin/maven"
	"holdfast.dev/holdfast/image/deb"
	"holdfast.dev/holdfast/overlays"
)

// debianClient says how the Debian archives are reached, and whose signatures
// count there.
func (a *app) debianClient(site overlays.Site) (*debian.Client, error) {
	m, err := debian.Mirrors(a.Getenv, os.DirFS("/etc/apt"), slices.Concat(site.Mirrors.Debian, site.Mirrors.DebianSecurity))
	if err != nil {
		return nil, err
	}
	c := &debian.Client{Mirror: m, Now: a.Now(), HTTP: &http.Client{Transport: transport()}}
	name, err := keyringName(a.dir)
	if err != nil || name == "" {
		return c, err
	}
	b, err := os.ReadFile(filepath.Join(a.dir, name))
	if err != nil {
		return nil, fmt.Errorf("cannot read the site's Debian keyring: %w", err)
	}
	if c.Keyring, err = deb.ReadKeyring(b); err != nil {
		return nil, fmt.Errorf("cannot use %s: %w", name, err)
	}
	return c, nil
}

// transport is what all origins but Go's are reached by.
func transport() *http.Transport {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 20 * time.Second}).DialContext,
		TLSHandshakeTimeout:   20 * time.Second,
		ResponseHeaderTimeout: time.Minute,
		MaxIdleConnsPerHost:   8,
	}
}

// lockNetwork says how archives and registries are reached. Modules are pinned
// by the recipes themselves: to lock, no proxy is asked.
func (a *app) lockNetwork(site overlays.Site) (airgap.Network, error) {
	c, derr := a.debianClient(site)
	r, rerr := a.registryClient(site)
	f := &fetch.Client{HTTP: &http.Client{Transport: transport()}, Waiting: a.waiting}
	return airgap.Network{Debian: c, Registry: r, Files: f}, errors.Join(derr, rerr)
}

// mavenClient says how Maven repositories are reached; there may be none.
func (a *app) mavenClient(site overlays.Site) (*maven.Client, error) {
	host := maven.Host{Home: a.Getenv("MAVEN_HOME")}
	if home := a.Getenv("HOME"); home != "" {
		host.Settings = filepath.Join(home, ".m2", "settings.xml")
	}
	if p, err := exec.LookPath("mvn"); err == nil && host.Home == "" {
		if p, err = filepath.EvalSymlinks(p); err == nil {
			host.Home = filepath.Dir(filepath.Dir(p))
		}
	}
	repos, err := maven.Repositories(a.Getenv, host, site.Mirrors.Maven)
	f := fetch.Client{HTTP: &http.Client{Transport: transport()}, Waiting: a.waiting}
	return &maven.Client{Repositories: repos, Client: f}, err
}

// network says how all origins are reached.
func (a *app) network(site overlays.Site) (airgap.Network, error) {
	n, err := a.lockNetwork(site)
	p, gerr := gomod.Config(a.Getenv, goEnv, site.Mirrors.GoProxy)
	m, merr := a.mavenClient(site)
	n.Go, n.Maven = p, m
	return n, errors.Join(err, gerr, merr)
}

// goEnv asks the host's go command where it fetches from, if there is one.
func goEnv() (map[string]string, error) {
	if _, err := exec.LookPath("go"); err != nil {
		return nil, nil
	}
	names := []string{"GOPROXY", "GOSUMDB", "GONOSUMDB", "GONOPROXY", "GOPRIVATE", "GOINSECURE", "GOAUTH"}
	out, err := exec.Command("go", append([]string{"env"}, names...)...).Output()
	if err != nil {
		return nil, fmt.Errorf("cannot run go env: %w", err)
	}
	env := map[string]string{}
	for i, line := range strings.Split(strings.TrimSuffix(string(out), "\n"), "\n") {
		if i < len(names) && line != "" {
			env[names[i]] = line
		}
	}
	return env, nil
}
