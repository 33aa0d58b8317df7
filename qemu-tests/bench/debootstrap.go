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

// theirs is a run of mmdebstrap; without a time, the note says why.
type theirs struct {
	took time.Duration
	note string
}

// mmdebstrap times the tool of that name on the same packages, which it finds
// downloaded already.
func mmdebstrap(variant, dir string, s *store.Store, packages []airgap.Package) theirs {
	if _, err := exec.LookPath("mmdebstrap"); err != nil {
		return theirs{note: "mmdebstrap is not installed"}
	}
	debs := filepath.Join(dir, "debs")
	names, err := layOut(debs, s, packages)
	if err != nil {
		return theirs{note: err.Error()}
	}
	sources, err := sources()
	if err != nil {
		return theirs{note: err.Error()}
	}
	mode := "--mode=root"
	if os.Getuid() != 0 {
		mode = "--mode=unshare"
	}
	var t theirs
	for i := range 2 { // what the first run had to download, the second finds
		target := filepath.Join(dir, fmt.Sprint("mmdebstrap-", i))
		fmt.Fprintln(os.Stderr, "mmdebstrap", variant)
		cmd := exec.Command("mmdebstrap", "--variant="+variant, mode, "--include="+strings.Join(names, ","),
			// Into the cache that apt looks in before it downloads; and leave it there.
			`--setup-hook=mkdir -p "$1/var/cache/apt/archives" && cp -l `+debs+`/*.deb "$1/var/cache/apt/archives/"`,
			"--skip=download/empty,essential/unlink,cleanup/apt", "trixie", target, "-")
		cmd.Stdin = strings.NewReader(sources)
		start := time.Now()
		out, err := cmd.CombinedOutput()
		t.took = time.Since(start)
		if err != nil {
			fmt.Fprintf(os.Stderr, "mmdebstrap: %v\n%s\n", err, out)
			return theirs{note: "mmdebstrap failed"}
		}
		more, err := filepath.Glob(filepath.Join(target, "var/cache/apt/archives/*.deb"))
		if err != nil {
			return theirs{note: err.Error()}
		}
		for _, m := range more {
			if err := copyFile(filepath.Join(debs, filepath.Base(m)), m); err != nil {
				return theirs{note: err.Error()}
			}
		}
		t.note = fmt.Sprintf("%d packages", len(more))
		if err := os.RemoveAll(target); err != nil {
			return theirs{note: err.Error()}
		}
	}
	return t
}

// layOut copies packages under the names that apt gives them.
func layOut(dir string, s *store.Store, packages []airgap.Package) (names []string, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	for _, p := range packages {
		names = append(names, p.Name)
		to := filepath.Join(dir, fmt.Sprintf("%s_%s_%s.deb", p.Name, strings.ReplaceAll(p.Version, ":", "%3a"), p.Arch))
		if err := copyFile(to, s.Path(p.Digest)); err != nil {
			return nil, err
		}
	}
	return names, nil
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
