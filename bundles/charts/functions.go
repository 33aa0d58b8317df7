package charts

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/template"
	"time"
	_ "time/tzdata" // zones are the same on every machine
)

// changing are the functions whose result is another one each time, or on each
// machine, and what they make.
var changing = map[string]string{
	"randAlphaNum": "a random text", "randAlpha": "a random text", "randAscii": "a random text", "randNumeric": "a random text",
	"randBytes": "random bytes", "randInt": "a random number", "shuffle": "a random order", "uuidv4": "a random identifier",
	"bcrypt": "a hash with a random salt", "htpasswd": "a hash with a random salt", "encryptAES": "a text encrypted under a random vector",
	"genPrivateKey": "a new key", "genCA": "a new key", "genCAWithKey": "a new certificate", "genSelfSignedCert": "a new key",
	"genSelfSignedCertWithKey": "a new certificate", "genSignedCert": "a new key", "genSignedCertWithKey": "a new certificate",
	"now": "the time", "ago": "the time", "date": "the time", "dateInZone": "the time", "date_in_zone": "the time",
	"htmlDate": "the time", "htmlDateInZone": "the time",
}

// outside are the functions that would ask something outside the chart.
var outside = map[string]string{"lookup": "asks a running cluster", "getHostByName": "asks the name servers"}

// maxCount bounds what a template may repeat.
const maxCount = 100_000

// functions take the place of Helm's own where those hang on chance, the clock
// or the machine. In the two passes their results differ for certain, where
// Helm's might be equal by chance; none of them is ever part of a release.
func functions(pass int) template.FuncMap {
	r := chance(pass)
	out := template.FuncMap{
		"lookup": func(...any) (map[string]any, error) {
			return nil, errors.New("lookup asks a running cluster, and build has none")
		},
		"getHostByName": func(string) (string, error) {
			return "", errors.New("getHostByName asks the name servers, and build has no network")
		},
		"keys": func(ms ...map[string]any) []string {
			out := []string{}
			for _, m := range ms {
				out = append(out, slices.Sorted(maps.Keys(m))...)
			}
			return out
		},
		"values": func(m map[string]any) []any {
			out := []any{}
			for _, k := range slices.Sorted(maps.Keys(m)) {
				out = append(out, m[k])
			}
			return out
		},
		"repeat": func(count int, s string) (string, error) {
			if count < 0 || count*max(len(s), 1) > maxCount*10 {
				return "", fmt.Errorf("repeat %d: more than is allowed", count)
			}
			return strings.Repeat(s, count), nil
		},
		"until": func(n int) ([]int, error) { return steps(0, n, cmp.Or(sign(n), 1)) },
		"untilStep": func(start, stop, step int) ([]int, error) {
			return steps(start, stop, step)
		},
	}
	maps.Copy(out, r.functions())
	maps.Copy(out, clock(time.Date(2001+pass*10, time.Month(1+pass), 2+pass, 3+pass, 4+pass, 5+pass, 0, time.UTC)).functions())
	return out
}

func sign(n int) int { return cmp.Compare(n, 0) }

func steps(start, stop, step int) ([]int, error) {
	out := []int{}
	if step == 0 || (stop > start) != (step > 0) {
		return out, nil
	}
	if (stop-start)/step > maxCount {
		return nil, fmt.Errorf("a list of more than %d numbers", maxCount)
	}
	for i := start; (step > 0 && i < stop) || (step < 0 && i > stop); i += step {
		out = append(out, i)
	}
	return out, nil
}

// chance is what random functions give in one of the passes.
type chance int

func (c chance) text(what string, n int) (string, error) {
	if n < 0 || n > maxCount {
		return "", fmt.Errorf("%s of %d characters", what, n)
	}
	return strings.Repeat(string(rune('a'+int(c))), n), nil
}

// certificate is what templates read of a made key.
type certificate struct{ Cert, Key string }

func (c chance) pem(kind string, of ...any) string {
	sum := sha256.Sum256(fmt.Append(nil, int(c), of))
	return "-----BEGIN " + kind + "-----\n" + base64.StdEncoding.EncodeToString(sum[:]) + "\n-----END " + kind + "-----\n"
}

func (c chance) made(of ...any) certificate {
	return certificate{c.pem("CERTIFICATE", of...), c.pem("RSA PRIVATE KEY", of...)}
}

func (c chance) functions() template.FuncMap {
	digest := func(of ...any) string {
		sum := sha256.Sum256(fmt.Append(nil, int(c), of))
		return hex.EncodeToString(sum[:])
	}
	return template.FuncMap{
		"randAlphaNum": func(n int) (string, error) { return c.text("randAlphaNum", n) },
		"randAlpha":    func(n int) (string, error) { return c.text("randAlpha", n) },
		"randAscii":    func(n int) (string, error) { return c.text("randAscii", n) },
		"randNumeric": func(n int) (string, error) {
			s, err := c.text("randNumeric", n)
			return strings.Repeat(fmt.Sprint(int(c)), len(s)), err
		},
		"randBytes": func(n int) (string, error) {
			s, err := c.text("randBytes", n)
			return base64.StdEncoding.EncodeToString([]byte(s)), err
		},
		"randInt": func(low, high int) (int, error) {
			if high <= low {
				return 0, fmt.Errorf("randInt %d %d: nothing between", low, high)
			}
			return low + int(c)%(high-low), nil
		},
		"shuffle": func(s string) string {
			r := []rune(s)
			if c%2 == 1 {
				slices.Reverse(r)
			}
			if c%2 == 1 && string(r) == s && len(r) > 1 { // a palindrome
				r = append(r[1:], r[0])
			}
			return string(r)
		},
		"uuidv4": func() string {
			d := digest("uuid")
			return d[:8] + "-" + d[8:12] + "-4" + d[13:16] + "-8" + d[17:20] + "-" + d[20:32]
		},
		"bcrypt":        func(s string) string { return digest("bcrypt", s) },
		"htpasswd":      func(user, password string) string { return user + ":" + digest(password) },
		"encryptAES":    func(password, text string) (string, error) { return digest(password, text), nil },
		"genPrivateKey": func(kind string) string { return c.pem("PRIVATE KEY", kind) },
		"genCA":         func(name string, days int) certificate { return c.made(name, days) },
		"genCAWithKey": func(name string, days int, key string) certificate {
			return certificate{c.pem("CERTIFICATE", name, days), key}
		},
		"genSelfSignedCert": func(name string, ips, dns []any, days int) certificate { return c.made(name, ips, dns, days) },
		"genSelfSignedCertWithKey": func(name string, ips, dns []any, days int, key string) certificate {
			return certificate{c.pem("CERTIFICATE", name, ips, dns, days), key}
		},
		"genSignedCert": func(name string, ips, dns []any, days int, _ certificate) certificate {
			return c.made(name, ips, dns, days)
		},
		"genSignedCertWithKey": func(name string, ips, dns []any, days int, _ certificate, key string) certificate {
			return certificate{c.pem("CERTIFICATE", name, ips, dns, days), key}
		},
		"buildCustomCert": func(cert, key string) (certificate, error) {
			a, err := base64.StdEncoding.DecodeString(cert)
			b, kerr := base64.StdEncoding.DecodeString(key)
			if err := errors.Join(err, kerr); err != nil {
				return certificate{}, fmt.Errorf("buildCustomCert: %w", err)
			}
			return certificate{string(a), string(b)}, nil
		},
	}
}

// clock is the time of one of the passes. Zones are UTC, where Helm takes the
// machine's own.
type clock time.Time

func (c clock) at(date any) time.Time {
	switch date := date.(type) {
	case time.Time:
		return date
	case *time.Time:
		return *date
	case int64:
		return time.Unix(date, 0)
	case int:
		return time.Unix(int64(date), 0)
	case int32:
		return time.Unix(int64(date), 0)
	}
	return time.Time(c)
}

func (c clock) format(form string, date any, zone string) string {
	loc, err := time.LoadLocation(zone)
	if err != nil || zone == "Local" {
		loc = time.UTC
	}
	return c.at(date).In(loc).Format(form)
}

func (c clock) functions() template.FuncMap {
	in := func(form string, date any, zone string) string { return c.format(form, date, zone) }
	parse := func(form, s string) (time.Time, error) { return time.ParseInLocation(form, s, time.UTC) }
	return template.FuncMap{
		"now":            func() time.Time { return time.Time(c) },
		"ago":            func(date any) string { return time.Time(c).Sub(c.at(date)).Round(time.Second).String() },
		"date":           func(form string, date any) string { return c.format(form, date, "UTC") },
		"dateInZone":     in,
		"date_in_zone":   in,
		"htmlDate":       func(date any) string { return c.format(time.DateOnly, date, "UTC") },
		"htmlDateInZone": func(date any, zone string) string { return c.format(time.DateOnly, date, zone) },
		"toDate":         func(form, s string) time.Time { t, _ := parse(form, s); return t },
		"mustToDate":     parse,
	}
}
