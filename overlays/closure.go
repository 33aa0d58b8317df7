package overlays

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
)

// checkAllowed returns what is wrong between the hosts that are allowed, and
// between the fields that hold images.
func (s Site) checkAllowed() []*Fault {
	var faults []*Fault
	hosts, fields := map[string]string{}, map[ImageField]string{}
	for i, h := range s.Allow.Hosts {
		ptr := fmt.Sprintf("/allow/hosts/%d/name", i)
		if first, ok := hosts[h.Name]; ok && h.Name != "" {
			faults = append(faults, s.fault(ptr, fmt.Sprintf("%q is also %s", h.Name, display(first)), ""))
		}
		hosts[h.Name] = ptr
	}
	for i, f := range s.ImageFields {
		ptr := fmt.Sprintf("/imageFields/%d", i)
		if first, ok := fields[f]; ok {
			faults = append(faults, s.fault(ptr, "is also "+display(first), ""))
		}
		fields[f] = ptr
	}
	return faults
}

// AllowedHostLine is the line of site.yaml on which the i-th host is allowed;
// 0 for a Site made in code.
func (s Site) AllowedHostLine(i int) int {
	return s.fault(fmt.Sprintf("/allow/hosts/%d/name", i), "", "").Line
}

var (
	kindForm      = regexp.MustCompile(`^[A-Z][A-Za-z0-9]{0,62}$`)
	fieldPathForm = regexp.MustCompile(`^([^.\[\]\s]+(\[\])?\.)*[^.\[\]\s]+$`)
)

func checkKind(s string) error {
	if !kindForm.MatchString(s) {
		return errors.New("want the kind of an object, as in Backup")
	}
	return nil
}

func checkFieldPath(s string) error {
	if len(s) > 500 || !fieldPathForm.MatchString(s) {
		return errors.New("want keys with dots between them, as in spec.image or spec.tools[].image")
	}
	return nil
}

func checkHostPattern(s string) error {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" && a.Unmap().String() == s {
		return nil
	}
	name := strings.TrimPrefix(s, "*.")
	if checkDomain(name) != nil || !strings.Contains(name, ".") {
		return errors.New("want one host, as in time.example.org, *.example.org for all below it, or an IP address")
	}
	return nil
}
