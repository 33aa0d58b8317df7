package k3s

import (
	"fmt"
	"regexp"
	"strconv"
)

// version is minor and patch of v1.MINOR.PATCH+k3sN.
type version struct{ minor, patch int }

var versionForm = regexp.MustCompile(`^v1\.([0-9]{1,4})\.([0-9]{1,4})\+k3s[0-9]{1,3}$`)

func parseVersion(s string) (version, error) {
	m := versionForm.FindStringSubmatch(s)
	if m == nil {
		return version{}, fmt.Errorf("%q is no version of k3s", s)
	}
	minor, _ := strconv.Atoi(m[1]) // at most four digits
	patch, _ := strconv.Atoi(m[2])
	return version{minor, patch}, nil
}

// since says which versions were the first to know a setting, one for each
// minor version that got it later than with its first release; all minor
// versions after the last know it. From k3s's documentation.
func since(setting string) []version {
	switch setting {
	case "disable-default-registry-endpoint": // January 2024
		return []version{{26, 13}, {27, 10}, {28, 6}, {29, 1}}
	case "secrets-encryption-provider": // April 2025
		return []version{{30, 12}, {31, 8}, {32, 4}, {33, 0}}
	case "authentication-config": // of Kubernetes, in the form that is written here
		return []version{{34, 0}}
	}
	return []version{{0, 0}}
}

// knows reports whether v has the setting. One that an older k3s does not know
// is not set.
func (v version) knows(setting string) bool {
	first := since(setting)
	for _, f := range first {
		if f.minor == v.minor {
			return v.patch >= f.patch
		}
	}
	return v.minor > first[len(first)-1].minor
}
