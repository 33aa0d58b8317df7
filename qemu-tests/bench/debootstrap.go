package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"holdfast.dev/holdfast/airgap"
	"holdfast.dev/holdfast/airgap/store"
)

// mmdebstrap times the tool of that name on the same packages, which it finds
// downloaded already: extracted only, without maintainer scripts, as holdfast
// does. A time of 0 means that there is none, and the note says why.
func mmdebstrap(dir string, s *store.Store, packages []airgap.Package) (took time.Duration, note string) {
	if _, err := exec.LookPath("mmdebstrap"); err != nil {
		return 0, "mmdebstrap is not installed"
	}
	debs := filepath.Join(dir, "debs")
	if err := os.MkdirAll(debs, 0o755); err != nil {
		return 0, err.Error()
	}
	var names []string
	for _, p := range packages {
		names = append(names, p.Name)
		to := filepath.Join(debs, fmt.Sprintf("%s_%s_%s.deb", p.Name, strings.ReplaceAll(p.Version, ":", "%3a"), p.Arch))
		if err := copyFile(to, s.Path(p.Digest)); err != nil {
			return 0, err.Error()
		}
	}
	sources, err := sources()
	if err != nil {
		return 0, err.Error()
	}
	args := []string{
		"--variant=extract", "--mode=root", "--include=" + strings.Join(names, ","), "--skip=download/empty",
		// Into the cache that apt looks in before it downloads.
		`--setup-hook=mkdir -p "$1/var/cache/apt/archives" && cp -l ` + debs + `/*.deb "$1/var/cache/apt/archives/"`,
		"trixie", "", "-",
	}
	if os.Getuid() != 0 {
		args[1] = "--mode=unshare"
	}
	var u used
	for i := range 2 { // the first run may still download
		target := filepath.Join(dir, fmt.Sprint("mmdebstrap-", i))
		args[len(args)-2] = target
		fmt.Fprintln(os.Stderr, "mmdebstrap")
		cmd := exec.Command("mmdebstrap", args...)
		cmd.Stdin = strings.NewReader(sources)
		start := time.Now()
		out, err := cmd.CombinedOutput()
		u.wall = time.Since(start)
		if err != nil {
			fmt.Fprintf(os.Stderr, "mmdebstrap: %v\n%s\n", err, out)
			return 0, "mmdebstrap failed"
		}
		// What it downloaded beside ours: the dependencies that holdfast excludes.
		more, err := filepath.Glob(filepath.Join(target, "var/cache/apt/archives/*.deb"))
		if err != nil {
			return 0, err.Error()
		}
		for _, m := range more {
			if err := copyFile(filepath.Join(debs, filepath.Base(m)), m); err != nil {
				return 0, err.Error()
			}
		}
		note = fmt.Sprintf("mmdebstrap extracts %d packages, and fetches the archive's lists", len(more))
		if err := os.RemoveAll(target); err != nil {
			return 0, err.Error()
		}
	}
	return u.wall, note
}

func copyFile(to, from string) error {
	if _, err := os.Stat(to); err == nil {
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer out.Close()
	_, err = io.Copy(out, in)
	return err
}

// sources are apt's for Debian 13 on the mirror that this machine uses.
func sources() (string, error) {
	out, err := exec.Command("apt-get", "indextargets", "--format", "$(SITE)|$(RELEASE)", "Created-By: Packages", "Component: main").Output()
	if err != nil {
		return "", fmt.Errorf("cannot ask apt for its mirror: %w", err)
	}
	var lines []string
	seen := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		site, release, _ := strings.Cut(strings.TrimSpace(line), "|")
		_, kind, _ := strings.Cut(release, "-")
		if kind == "backports" || seen[site+kind] {
			continue
		}
		seen[site+kind] = true
		suite := "trixie"
		if kind != "" {
			suite += "-" + kind
		}
		lines = append(lines, fmt.Sprintf("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n", site, suite))
	}
	if len(lines) == 0 {
		return "", fmt.Errorf("apt has no source for Debian")
	}
	return strings.Join(lines, ""), nil
}
