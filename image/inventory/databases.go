package inventory

import (
	"bufio"
	"bytes"
	"context"
	"path"
	"regexp"
	"strings"

	"holdfast.dev/holdfast/image/deb"
)

// Where databases and os-release lie.
const (
	dpkgStatus    = "var/lib/dpkg/status"
	dpkgDirectory = "var/lib/dpkg/status.d/" // of images without dpkg, a file a package
	etcRelease    = "etc/os-release"
	usrRelease    = "usr/lib/os-release"
)

func isRelease(name string) bool { return name == etcRelease || name == usrRelease }

func isAPK(name string) bool {
	return name == "lib/apk/db/installed" || name == "usr/lib/apk/db/installed"
}

// isRPM reports whether the file is a database of rpm as SQLite has it, which is
// rpm's own choice since 2020.
func isRPM(name string) bool {
	return name == "var/lib/rpm/rpmdb.sqlite" || name == "usr/lib/sysimage/rpm/rpmdb.sqlite" || name == "usr/share/rpm/rpmdb.sqlite"
}

// wanted reports whether the file is read whole.
func wanted(name string) bool {
	inDirectory := path.Dir(name)+"/" == dpkgDirectory && !strings.HasSuffix(name, ".md5sums")
	return name == dpkgStatus || inDirectory || isRelease(name) || isAPK(name) || isRPM(name)
}

// unread says what a database is that nothing here reads.
func unread(name string) string {
	if base := path.Base(name); isRPM(path.Join(path.Dir(name), "rpmdb.sqlite")) && (base == "Packages" || base == "Packages.db") {
		return "a database of rpm in another form than that of SQLite, which is not read"
	}
	return ""
}

// parseDatabase reads a database by its name; bad is how many of its entries
// could not be understood. It fails where nothing of it could.
func parseDatabase(ctx context.Context, name string, data []byte) (ps []Package, bad int, err error) {
	switch {
	case isAPK(name):
		ps, bad = parseAPK(data)
	case isRPM(name):
		return parseRPM(ctx, data)
	default:
		ps, bad = parseDpkg(data, name != dpkgStatus)
	}
	return ps, bad, nil
}

// parseDpkg reads paragraphs of dpkg's status; those of status.d need not say
// that they are installed.
func parseDpkg(data []byte, installed bool) (ps []Package, bad int) {
	err := deb.ReadParagraphs(bytes.NewReader(data), func(para deb.Paragraph) error {
		status := strings.Fields(para.Get("Status"))
		if len(status) == 0 && !installed || len(status) > 0 && status[len(status)-1] != "installed" {
			return nil
		}
		source, _, _ := strings.Cut(para.Get("Source"), " ")
		p := Package{
			Kind: Deb, Name: strings.Clone(para.Get("Package")), Version: strings.Clone(para.Get("Version")),
			Arch: strings.Clone(para.Get("Architecture")), Source: strings.Clone(source),
		}
		if !deb.ValidName(p.Name) || deb.CheckVersion(p.Version) != nil || !archForm.MatchString(p.Arch) || p.Source != "" && !deb.ValidName(p.Source) || long(p) {
			bad++
			return nil
		}
		ps = append(ps, p)
		return nil
	})
	if err != nil {
		bad++
	}
	return ps, bad
}

var (
	archForm    = regexp.MustCompile(`^[a-z0-9_-]{1,40}$`)
	apkName     = regexp.MustCompile(`^[A-Za-z0-9._+-]+$`)
	apkVersion  = regexp.MustCompile(`^[A-Za-z0-9._~+-]+$`)
	idForm      = regexp.MustCompile(`^[a-z0-9._-]{1,64}$`)
	versionForm = regexp.MustCompile(`^[A-Za-z0-9._+~-]{1,64}$`)
)

// long reports whether a name or version is longer than any real one.
func long(p Package) bool { return len(p.Name) > 256 || len(p.Version) > 256 || len(p.Source) > 256 }

// parseAPK reads apk's list of what is installed: lines of a letter, a colon
// and a value, with an empty line behind each package.
func parseAPK(data []byte) (ps []Package, bad int) {
	var p Package
	end := func() {
		switch {
		case p == (Package{}):
			return
		case !apkName.MatchString(p.Name), !apkVersion.MatchString(p.Version), !archForm.MatchString(p.Arch), p.Source != "" && !apkName.MatchString(p.Source), long(p):
			bad++
		default:
			p.Kind = APK
			ps = append(ps, p)
		}
		p = Package{}
	}
	sc := bufio.NewScanner(bytes.NewReader(data))
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		key, value, _ := strings.Cut(sc.Text(), ":")
		switch key {
		case "":
			end()
		case "P":
			p.Name = value
		case "V":
			p.Version = value
		case "A":
			p.Arch = value
		case "o":
			p.Source = value
		}
	}
	end()
	if sc.Err() != nil {
		bad++
	}
	return ps, bad
}

// parseOS reads os-release; what it does not understand it leaves out.
func parseOS(data []byte) OS {
	var os OS
	sc := bufio.NewScanner(bytes.NewReader(data))
	for sc.Scan() {
		key, value, _ := strings.Cut(strings.TrimSpace(sc.Text()), "=")
		value = strings.Trim(value, `"'`)
		switch {
		case key == "ID" && idForm.MatchString(value):
			os.ID = value
		case key == "VERSION_ID" && versionForm.MatchString(value):
			os.Version = value
		}
	}
	return os
}
