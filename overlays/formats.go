package overlays

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"strings"
	"unicode"

	"golang.org/x/crypto/ssh"
)

// formats are the named formats of the schema. Each says what a wrong value
// should have been; the value itself is in the excerpt.
func formats() map[string]func(string) error {
	return map[string]func(string) error{
		"dns-label":          checkLabel,
		"dns-name":           checkDomain,
		"deb-name":           checkDebName,
		"not-blank":          checkNotBlank,
		"kubernetes-version": checkKubernetesVersion,
		"k3s-addon":          checkAddon,
		"ip":                 checkIP,
		"ip-prefix":          checkPrefix,
		"mac":                checkMAC,
		"serial":             checkSerial,
		"device":             checkDevice,
		"mirror-url":         checkMirror,
		"backup-url":         checkBackupURL,
		"region":             checkRegion,
		"ssh-key":            checkSSHKey,
		"image-name":         checkImageName,
		"registry":           checkRegistry,
		"registry-url":       checkRegistryURL,
		"regexp":             checkRegexp,
		"identity":           checkIdentity,
		"path":               checkPath,
		"sha256":             checkSHA256,
		"trust-file":         checkTrustFile,
		"kind":               checkKind,
		"field-path":         checkFieldPath,
		"host-pattern":       checkHostPattern,
		"release-name":       checkReleaseName,
		"site-path":          checkSitePath,
		"chart-name":         checkChartName,
		"chart-version":      checkChartVersion,
		"api-version":        checkAPIVersion,
	}
}

var (
	labelForm   = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	debForm     = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]{1,127}$`)
	versionForm = regexp.MustCompile(`^v1\.(0|[1-9][0-9]{0,3})\.(0|[1-9][0-9]{0,3})(\+k3s[1-9][0-9]{0,2})?$`)
	deviceForm  = regexp.MustCompile(`^/dev/[A-Za-z0-9_.:+@/-]{1,200}$`)
)

func checkLabel(s string) error {
	if !labelForm.MatchString(s) {
		return errors.New("want a DNS label: 1 to 63 of a-z, 0-9 and -, with no - at its ends")
	}
	return nil
}

func checkDomain(s string) error {
	for l := range strings.SplitSeq(s, ".") {
		if !labelForm.MatchString(l) || len(s) > 253 {
			return errors.New("want a DNS name in lower case, as in demo.example")
		}
	}
	if _, err := netip.ParseAddr(s); err == nil {
		return errors.New("want a DNS name, not an IP address")
	}
	return nil
}

func checkDebName(s string) error {
	if !debForm.MatchString(s) {
		return errors.New("want the name of a Debian package, without version or architecture")
	}
	return nil
}

func checkNotBlank(s string) error {
	if strings.TrimSpace(s) == "" {
		return errors.New("must say something")
	}
	return nil
}

func checkKubernetesVersion(s string) error {
	if !versionForm.MatchString(s) {
		return errors.New("want a full version, as in v1.36.3 or v1.36.3+k3s1")
	}
	return nil
}

func parseIP(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" || a.Is4In6() {
		return netip.Addr{}, errors.New("want an IP address, not a name")
	}
	if a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() {
		return netip.Addr{}, fmt.Errorf("want the IP address of one machine; %s is not one", a)
	}
	return a, nil
}

func checkIP(s string) error {
	_, err := parseIP(s)
	return err
}

func checkPrefix(s string) error {
	_, err := parsePrefix(s)
	return err
}

// parsePrefix reads an address with prefix length that a machine can have.
func parsePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, errors.New("want an IP address with prefix length, as in 10.0.2.15/24")
	}
	if _, err := parseIP(p.Addr().String()); err != nil {
		return netip.Prefix{}, err
	}
	if p.Bits() == 0 {
		return netip.Prefix{}, errors.New("want a prefix length above 0")
	}
	if p.Addr().Is4() && p.Bits() < 31 {
		if p.Addr() == p.Masked().Addr() {
			return netip.Prefix{}, errors.New("is the network's own address, not a machine's")
		}
		if n := p.Addr().Next(); !n.IsValid() || !p.Contains(n) {
			return netip.Prefix{}, errors.New("is the network's broadcast address, not a machine's")
		}
	}
	return p, nil
}

func checkMAC(s string) error {
	m, err := net.ParseMAC(s)
	if err != nil || len(m) != 6 {
		return errors.New("want six bytes in hexadecimal, as in 52:54:00:68:66:01")
	}
	if m[0]&1 == 1 || m.String() == "00:00:00:00:00:00" {
		return errors.New("want the address of one network card; this is a group's or nobody's")
	}
	return nil
}

// normalMAC writes a MAC address in lower case with colons.
func normalMAC(s string) string {
	if m, err := net.ParseMAC(s); err == nil {
		return m.String()
	}
	return strings.ToLower(s)
}

func checkSerial(s string) error {
	if s == "" || len(s) > 128 || s != strings.TrimSpace(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return errors.New("want 1 to 128 printable characters, with no blanks at the ends")
	}
	return nil
}

func checkDevice(s string) error {
	if !deviceForm.MatchString(s) || path.Clean(s) != s {
		return errors.New("want a block device, as in /dev/vda or /dev/disk/by-id/…")
	}
	return nil
}

func checkBackupURL(s string) error {
	if strings.HasPrefix(s, s3Scheme) {
		return checkS3(s)
	}
	return checkSFTP(s)
}

const s3Scheme = "s3://"

// bucketForm is of names that every server takes; dots would only be in the way.
var (
	bucketForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$`)
	prefixForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,99}(/[A-Za-z0-9][A-Za-z0-9._-]{0,99}){0,7}$`)
	regionForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
)

func checkS3(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.RawQuery != "" || u.Fragment != "" || u.ForceQuery || u.RawPath != "" {
		return errors.New("want s3://ADDRESS/BUCKET or s3://ADDRESS/BUCKET/PREFIX, as in s3://10.0.2.9:9000/backups")
	}
	if u.User != nil {
		return errors.New("a URL with a user: site files hold no secrets; credentials are given to the node")
	}
	bucket, prefix, deeper := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	if !bucketForm.MatchString(bucket) {
		return errors.New("want a bucket behind the address: 3 to 63 of a-z, 0-9 and -")
	}
	if deeper && !prefixForm.MatchString(prefix) {
		return errors.New("want a prefix of names of letters, digits, ., _ and -, with / between them and none at the end")
	}
	if _, err := parseIP(u.Hostname()); err == nil || isAddress(u.Hostname()) {
		return err
	}
	if err := checkDomain(u.Hostname()); err != nil {
		return errors.New("want an IP address or a DNS name in lower case behind s3://")
	}
	return nil
}

func isAddress(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

func checkRegion(s string) error {
	if !regionForm.MatchString(s) {
		return errors.New("want the name of a region, as in us-east-1")
	}
	return nil
}

func checkSFTP(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "sftp" || u.User.Username() == "" || !path.IsAbs(u.Path) || path.Clean(u.Path) != u.Path || u.RawQuery != "" || u.Fragment != "" {
		return errors.New("want sftp://USER@ADDRESS/DIRECTORY, as in sftp://holdfast@10.0.2.9/srv/backups, or s3://ADDRESS/BUCKET")
	}
	if _, ok := u.User.Password(); ok {
		return errors.New("a URL with a password: site files hold no secrets; the server lets in the node's key")
	}
	// A backup must not wait for a name server.
	return checkIP(u.Hostname())
}

func checkSSHKey(s string) error {
	if _, _, _, rest, err := ssh.ParseAuthorizedKey([]byte(s)); err != nil || len(rest) > 0 {
		return errors.New("want one public key, as in ssh-ed25519 AAAA…")
	}
	return nil
}

func checkMirror(s string) error {
	u, err := url.Parse(s)
	if err != nil {
		return errors.New("want a URL")
	}
	if u.User != nil {
		return errors.New("a URL with a user or password: site files hold no secrets")
	}
	switch {
	case (u.Scheme == "http" || u.Scheme == "https") && u.Host != "":
	case u.Scheme == "file" && u.Host == "" && strings.HasPrefix(u.Path, "/"):
	default:
		return errors.New("want a URL that starts with https://, http:// or file:///")
	}
	if u.RawQuery != "" || u.Fragment != "" {
		return errors.New("want a URL without ? and #")
	}
	return nil
}
