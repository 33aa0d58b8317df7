package inventory

import (
	"archive/zip"
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"strings"
)

// Limits, of one archive of Java's and those inside it.
const (
	maxDirectory = 8 << 20   // bytes that list what is in it
	maxInside    = 256 << 20 // bytes of all that is unpacked
	maxNested    = 64 << 20  // bytes of one archive inside
	maxJarDepth  = 3
	maxArtifacts = 2000
)

// jars reads which artifacts of Maven are in an archive: what was put together
// of several keeps the properties of each (META-INF/maven). One without says what
// it is by its manifest or its name, and whose it is stays open.
type jars struct {
	left     int64
	packages []Package
	bad      int
}

var errJar = errors.New("an archive of Java's that could not be looked into")

// jar reads one that was spooled.
func (r *reader) jar(name string, size int64, t io.Reader) (finding, error) {
	if size > maxProgram {
		return finding{note: "an archive of Java's too large to look into"}, nil
	}
	if err := r.spool(nil, t, size); err != nil {
		return finding{}, err
	}
	j := jars{left: maxInside}
	if err := j.read(name, io.NewSectionReader(r.scratch, 0, size), size, 1); err != nil {
		return finding{note: err.Error()}, nil
	}
	for _, p := range j.packages {
		r.kept += perPackage + len(p.Name) + len(p.Version)
	}
	if r.kept > maxKept {
		return finding{note: "an archive of Java's, beyond what is kept of one image"}, nil
	}
	found := finding{packages: j.packages}
	if j.bad > 0 {
		found.note = fmt.Sprintf("an archive of Java's, of which %d parts could not be understood", j.bad)
	}
	return found, nil
}

// within reads at most so many bytes: a directory says itself how long it is.
type within struct {
	io.ReaderAt
	left int64
}

func (w *within) ReadAt(b []byte, at int64) (int, error) {
	if w.left -= int64(len(b)); w.left < 0 {
		return 0, errJar
	}
	return w.ReaderAt.ReadAt(b, at)
}

var properties = regexp.MustCompile(`^META-INF/maven/[^/]+/[^/]+/pom\.properties$`)

func (j *jars) read(name string, f io.ReaderAt, size int64, depth int) error {
	w := &within{f, maxDirectory}
	z, err := zip.NewReader(w, size)
	if err != nil {
		return errJar
	}
	w.left = 2 * size // every byte once, and what buffers read again
	before := len(j.packages)
	var manifest []byte
	for _, e := range z.File {
		inside := path.Ext(e.Name) == ".jar" && depth < maxJarDepth
		switch {
		case properties.MatchString(e.Name):
			b, err := j.entry(e, maxMetadata)
			if err != nil {
				return err
			}
			values := fields(b, "=")
			j.add(values["groupId"], values["artifactId"], values["version"])
		case e.Name == "META-INF/MANIFEST.MF":
			if manifest, err = j.entry(e, maxMetadata); err != nil {
				return err
			}
		case inside:
			b, err := j.entry(e, maxNested)
			if err != nil || j.read(e.Name, bytes.NewReader(b), int64(len(b)), depth+1) != nil {
				j.bad++
			}
		}
		if len(j.packages) > maxArtifacts || j.left < 0 {
			return errJar
		}
	}
	if len(j.packages) == before && strings.HasSuffix(name, ".jar") {
		j.named(path.Base(name), fields(manifest, ":"))
	}
	return nil
}

// entry unpacks one file of an archive.
func (j *jars) entry(e *zip.File, most int64) ([]byte, error) {
	f, err := e.Open()
	if err != nil {
		return nil, errJar
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, min(most, j.left)+1))
	j.left -= int64(len(b))
	if err != nil || int64(len(b)) > most || j.left < 0 {
		return nil, errJar
	}
	return b, nil
}

// fields reads lines of a key, a separator and a value.
func fields(data []byte, separator string) map[string]string {
	out := map[string]string{}
	sc := bufio.NewScanner(bytes.NewReader(data))
	sc.Buffer(nil, maxMetadata+1)
	for sc.Scan() {
		if key, value, ok := strings.Cut(sc.Text(), separator); ok {
			if key = strings.TrimSpace(key); out[key] == "" {
				out[key] = strings.TrimSpace(value)
			}
		}
	}
	return out
}

var (
	mavenPart = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*$`)
	jarName   = regexp.MustCompile(`^(.+?)-([0-9][0-9A-Za-z._+-]*)\.jar$`)
)

func (j *jars) add(group, artifact, version string) {
	p := Package{Kind: Maven, Name: artifact, Version: version}
	if group != "" {
		p.Name = group + ":" + artifact
	}
	if group != "" && !mavenPart.MatchString(group) || !mavenPart.MatchString(artifact) || !anyVersion.MatchString(version) || long(p) {
		j.bad++
		return
	}
	j.packages = append(j.packages, p)
}

// named is an artifact by its file's name, NAME-VERSION.jar, or by what its
// manifest says of the version.
func (j *jars) named(base string, manifest map[string]string) {
	if m := jarName.FindStringSubmatch(base); m != nil {
		j.add("", m[1], m[2])
		return
	}
	for _, key := range []string{"Implementation-Version", "Bundle-Version", "Specification-Version"} {
		if v := manifest[key]; v != "" {
			j.add("", strings.TrimSuffix(base, ".jar"), v)
			return
		}
	}
}
