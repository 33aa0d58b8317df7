package cli_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"holdfast.dev/holdfast/airgap"
	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles/catalog"
	"holdfast.dev/holdfast/image"
	"holdfast.dev/holdfast/image/deb"
	"holdfast.dev/holdfast/overlays"
)

// fakeDeb is a package of the test's archive.
type fakeDeb struct {
	version, postinst string
	newer             string // a version that is there as well, "" for none
	depends           []string
	section           string // of the archive; "" is main
	padding           int    // bytes of data that the package holds
	spoilt            bool
}

// mirror is a small Debian archive on the loopback; scripts change it with the
// command "mirror".
type mirror struct {
	addr  string
	srv   *http.Server
	total int // packages that a new site locks

	mu       sync.Mutex
	debs     map[string]fakeDeb
	key      *openpgp.Entity
	validFor time.Duration
	left     int // packages to be served before it dies or stalls; -1: no end
	stalls   bool
	hanging  atomic.Int64 // transfers that stall now
	served   []string     // packages that were fetched since the last count
}

func pgpConfig() *packet.Config {
	return &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, Time: func() time.Time { return time.Now().Add(-24 * time.Hour) }}
}

var archiveKey = sync.OnceValues(newArchiveKey)

func newArchiveKey() (*openpgp.Entity, error) {
	return openpgp.NewEntity("Test archive", "", "archive@example.com", pgpConfig())
}

func keyring(key *openpgp.Entity) (string, error) {
	var b bytes.Buffer
	w, err := armor.Encode(&b, openpgp.PublicKeyType, nil)
	if err != nil {
		return "", err
	}
	if err := key.Serialize(w); err != nil {
		return "", err
	}
	err = w.Close()
	return b.String(), err
}

// newMirror has every package that a new site with PostgreSQL wants or
// excludes; an exclusion that cuts nothing would be an error.
func newMirror() (*mirror, error) {
	key, err := archiveKey()
	if err != nil {
		return nil, err
	}
	m := &mirror{debs: map[string]fakeDeb{}, key: key, validFor: 7 * 24 * time.Hour, left: -1}
	var sets []airgap.Want
	set := func(want []string, excludes []deb.Exclude) {
		if len(want) == 0 {
			return
		}
		sets = append(sets, airgap.Want{Packages: want, Exclude: excludes})
		var exclude []string
		for _, e := range excludes {
			exclude = append(exclude, e.Name)
		}
		for _, n := range append(slices.Clone(want), exclude...) {
			if _, ok := m.debs[n]; !ok {
				m.debs[n] = fakeDeb{version: "1.0"}
			}
		}
		d := m.debs[want[0]]
		d.depends = append(d.depends, exclude...)
		m.debs[want[0]] = d
	}
	want, exclude, err := image.Packages(overlays.Site{OS: overlays.OS{Suite: "trixie", Kernel: "cloud"}})
	if err != nil {
		return nil, err
	}
	set(want, exclude)
	if err := m.addHardware(want); err != nil {
		return nil, err
	}
	all, err := catalog.Order([]string{"coredns", "postgresql"}) // what "init" puts into a site, and the engine
	if err != nil {
		return nil, err
	}
	for _, c := range all {
		for _, im := range c.Images {
			var exclude []deb.Exclude
			for _, e := range im.Source.Exclude {
				exclude = append(exclude, deb.Exclude{Name: e.Name, Reason: e.Reason})
			}
			set(im.Source.Debs, exclude)
			if add := im.Upstream.Add; add != nil {
				var exclude []deb.Exclude
				for _, e := range add.Exclude {
					exclude = append(exclude, deb.Exclude{Name: e.Name, Reason: e.Reason})
				}
				set(add.Debs, exclude)
			}
		}
	}
	index, err := deb.ParsePackages(bytes.NewReader(m.packages("")), "debian", "amd64")
	if err != nil {
		return nil, err
	}
	chosen := map[string]bool{}
	for _, w := range sets {
		sel, err := deb.Resolve(index, w.Packages, w.Exclude)
		if err != nil {
			return nil, err
		}
		for _, p := range sel.Packages {
			chosen[p.Name] = true
		}
	}
	m.total = len(chosen)
	return m, m.up("127.0.0.1:0")
}

// addHardware puts in what a site asks for that runs on hardware, besides
// cloud; its firmware is in another part of the archive.
func (m *mirror) addHardware(cloud []string) error {
	want, exclude, err := image.Packages(overlays.Site{OS: overlays.OS{Suite: "trixie", Kernel: "generic"}})
	if err != nil {
		return err
	}
	for _, n := range want {
		switch {
		case slices.Contains(cloud, n):
		case strings.HasPrefix(n, "linux-image-"):
			m.debs[n] = fakeDeb{version: "1.0"}
		default:
			m.debs[n] = fakeDeb{version: "1.0", section: "non-free-firmware"}
		}
	}
	for _, e := range exclude {
		if _, ok := m.debs[e.Name]; !ok {
			m.debs[e.Name] = fakeDeb{version: "1.0"}
			d := m.debs["intel-microcode"]
			d.depends = append(d.depends, e.Name)
			m.debs["intel-microcode"] = d
		}
	}
	return nil
}

func (m *mirror) up(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: m}
	m.addr, m.srv = l.Addr().String(), srv
	go func() { _ = srv.Serve(l) }()
	return nil
}

func (m *mirror) down() error {
	if m.srv == nil {
		return nil
	}
	err := m.srv.Close()
	m.srv = nil
	return err
}

func (m *mirror) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	reply := func(b []byte) { http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b)) }
	archive, name, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if pkg, ok := strings.CutPrefix(name, "pool/"); ok {
		pkg, version, _ := strings.Cut(strings.TrimSuffix(pkg, ".deb"), "_")
		if d, ok := m.debs[pkg]; ok && (d.version == version || d.newer == version) {
			d.version = version
			b := d.bytes(pkg)
			if m.left == 0 {
				if m.stalls {
					m.hang(w, r, b)
				}
				panic(http.ErrAbortHandler)
			}
			m.left--
			m.served = append(m.served, pkg)
			if d.spoilt {
				b[len(b)-1] ^= 1
			}
			reply(b)
			return
		}
	}
	if rest, ok := strings.CutPrefix(name, "dists/"); ok {
		suite, file, _ := strings.Cut(rest, "/")
		main, firmware := []byte("\n"), []byte("\n")
		if archive == "debian" && suite == "trixie" { // which has them all
			main, firmware = m.packages(""), m.packages("non-free-firmware")
		}
		switch file {
		case "InRelease":
			b, err := m.inRelease(suite, main, firmware)
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			reply(b)
			return
		case "main/binary-amd64/Packages":
			reply(main)
			return
		case "non-free-firmware/binary-amd64/Packages":
			reply(firmware)
			return
		}
	}
	http.NotFound(w, r)
}

// hang sends half of b, and no more until the other side goes away.
func (m *mirror) hang(w http.ResponseWriter, r *http.Request, b []byte) {
	m.hanging.Add(1)
	defer m.hanging.Add(-1)
	m.mu.Unlock()
	defer m.mu.Lock()
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	_, err := w.Write(b[:len(b)/2])
	if err == nil && http.NewResponseController(w).Flush() == nil {
		<-r.Context().Done()
	}
}

// packages is the index of a section of the suite trixie.
func (m *mirror) packages(section string) []byte {
	var b []byte
	for _, n := range slices.Sorted(maps.Keys(m.debs)) {
		d := m.debs[n]
		if d.section != section {
			continue
		}
		for _, v := range []string{d.version, d.newer} {
			if v == "" {
				continue
			}
			d.version = v
			body := d.bytes(n)
			b = fmt.Appendf(b, "Package: %s\nVersion: %s\nArchitecture: amd64\nFilename: pool/%s_%s.deb\nSize: %d\nSHA256: %s\n",
				n, v, n, v, len(body), store.FromBytes(body).Hex())
			if len(d.depends) > 0 {
				b = fmt.Appendf(b, "Depends: %s\n", strings.Join(d.depends, ", "))
			}
			b = append(b, '\n')
		}
	}
	return b
}

func (m *mirror) inRelease(suite string, main, firmware []byte) ([]byte, error) {
	var b bytes.Buffer
	w, err := clearsign.Encode(&b, m.key.PrivateKey, pgpConfig())
	if err != nil {
		return nil, err
	}
	now := time.Now().UTC()
	fmt.Fprintf(w, "Suite: stable\nCodename: %s\nDate: %s\nValid-Until: %s\nComponents: main non-free-firmware\nArchitectures: amd64\nSHA256:\n %s %d main/binary-amd64/Packages\n %s %d non-free-firmware/binary-amd64/Packages\n",
		suite, now.Add(-time.Hour).Format(time.RFC1123), now.Add(m.validFor).Format(time.RFC1123),
		store.FromBytes(main).Hex(), len(main), store.FromBytes(firmware).Hex(), len(firmware))
	if err := w.Close(); err != nil {
		return nil, err
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}

func (d fakeDeb) bytes(name string) []byte {
	control := map[string]string{"./control": fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: amd64\nDescription: none\n", name, d.version)}
	if d.postinst != "" {
		control["./postinst"] = d.postinst
	}
	data := map[string]string{"./usr/share/doc/" + name + "/copyright": name + strings.Repeat("x", d.padding) + "\n"}
	out := []byte("!<arch>\n")
	for _, part := range []struct {
		name string
		body []byte
	}{{"debian-binary", []byte("2.0\n")}, {"control.tar", tarOf(control)}, {"data.tar", tarOf(data)}} {
		out = fmt.Appendf(out, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", part.name, 0, 0, 0, "100644", len(part.body))
		out = append(out, part.body...)
	}
	return out
}

func tarOf(files map[string]string) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, n := range slices.Sorted(maps.Keys(files)) {
		// Writes to a buffer do not fail, and the headers are plain.
		_ = w.WriteHeader(&tar.Header{Name: n, Size: int64(len(files[n])), Mode: 0o644, Format: tar.FormatGNU})
		_, _ = w.Write([]byte(files[n]))
	}
	_ = w.Close()
	return b.Bytes()
}
