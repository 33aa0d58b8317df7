// Package signing makes keys and signatures, and says whose count: the trust
// policy. Signatures over releases are in the form that the stock cosign
// program writes and verifies; the code here needs the standard library only,
// so that the agent on a node can link it.
package signing

import (
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// The zones that a rule can be for.
const (
	ZoneOfficial          = "official"
	ZoneOfficialSensitive = "official-sensitive"
	ZoneSecret            = "secret"
)

// Zones returns all zones, the least demanding first.
func Zones() []string { return []string{ZoneOfficial, ZoneOfficialSensitive, ZoneSecret} }

// ErrUntrusted is wrapped by errors about something that too few keys of the
// trust policy have signed.
var ErrUntrusted = errors.New("not trusted")

const (
	maxPolicy = 1 << 20
	maxKeys   = 64
)

// Key is a public key of a trust policy.
type Key struct {
	ID          string `json:"id"` // sha256: and the hash of the PKIX DER
	Name        string `json:"name"`
	PublicKey   string `json:"publicKey"` // PEM
	Development bool   `json:"development,omitempty"`

	public *ecdsa.PublicKey
}

// Rule says how many of which keys must have signed what is meant for a zone.
type Rule struct {
	Zone      string   `json:"zone"`
	Threshold int      `json:"threshold"`
	Keys      []string `json:"keys"` // key ids
}

// Policy is a trust policy. A Policy from ParsePolicy, NewPolicy or With is
// valid; the zero Policy trusts nobody.
type Policy struct {
	keys  []Key
	rules []Rule
}

type policyFile struct {
	Version int    `json:"version"`
	Keys    []Key  `json:"keys"`
	Rules   []Rule `json:"rules"`
}

// ParsePolicy reads a policy.json. It is strict: an unknown field, zone or key
// id, a key or rule given twice, or a threshold that is 0 or more than the
// rule's keys is an error. Development keys are allowed only in the rule for
// the zone official.
func ParsePolicy(b []byte) (Policy, error) {
	var f policyFile
	if err := decodeStrict(b, maxPolicy, &f); err != nil {
		return Policy{}, fmt.Errorf("cannot read trust policy: %w", err)
	}
	if f.Version != 1 {
		return Policy{}, fmt.Errorf("cannot read trust policy: version %d, want 1", f.Version)
	}
	return NewPolicy(f.Keys, f.Rules)
}

// NewPolicy makes a policy of keys and rules, and tells all that is wrong.
func NewPolicy(keys []Key, rules []Rule) (Policy, error) {
	var errs []error
	fault := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	p := Policy{keys: slices.Clone(keys)}
	for _, r := range rules {
		r.Keys = slices.Clone(r.Keys)
		p.rules = append(p.rules, r)
	}
	if len(p.keys) > maxKeys {
		fault("%d keys, more than the %d allowed", len(p.keys), maxKeys)
	}
	byID := map[string]Key{}
	for i, k := range p.keys {
		pub, err := ParsePublicKey([]byte(k.PublicKey))
		if err != nil {
			fault("key %q: %w", k.Name, err)
			continue
		}
		if id := KeyID(pub); id != k.ID {
			fault("key %q: its id is %s, not %s", k.Name, id, k.ID)
		}
		if _, ok := byID[k.ID]; ok {
			fault("key %q: %s is given twice", k.Name, k.ID)
		}
		p.keys[i].public = pub
		byID[k.ID] = p.keys[i]
	}
	zones := map[string]bool{}
	for _, r := range p.rules {
		if !slices.Contains(Zones(), r.Zone) {
			fault("rule for %q: no such zone", r.Zone)
		}
		if zones[r.Zone] {
			fault("rule for %s is given twice", r.Zone)
		}
		zones[r.Zone] = true
		if r.Threshold < 1 || r.Threshold > len(r.Keys) {
			fault("rule for %s: threshold %d with %d keys", r.Zone, r.Threshold, len(r.Keys))
		}
		seen := map[string]bool{}
		for _, id := range r.Keys {
			k, ok := byID[id]
			switch {
			case !ok:
				fault("rule for %s: no key %q", r.Zone, id)
			case seen[id]:
				fault("rule for %s: key %s is given twice", r.Zone, id)
			case k.Development && r.Zone != ZoneOfficial:
				fault("rule for %s: %q is a development key", r.Zone, k.Name)
			}
			seen[id] = true
		}
	}
	if err := errors.Join(errs...); err != nil {
		return Policy{}, fmt.Errorf("cannot use trust policy: %w", err)
	}
	return p, nil
}

// Keys returns the policy's keys.
func (p Policy) Keys() []Key { return slices.Clone(p.keys) }

// Rule returns the rule for a zone; a zone without one trusts nobody.
func (p Policy) Rule(zone string) (Rule, bool) {
	for _, r := range p.rules {
		if r.Zone == zone {
			r.Keys = slices.Clone(r.Keys)
			return r, true
		}
	}
	return Rule{}, false
}

// With returns p with one more key and with rule in place of the one for its
// zone. A key that p has already is not added again.
func (p Policy) With(k Key, rule Rule) (Policy, error) {
	keys := slices.Clone(p.keys)
	if !slices.ContainsFunc(keys, func(o Key) bool { return o.ID == k.ID }) {
		keys = append(keys, k)
	}
	rules := slices.DeleteFunc(slices.Clone(p.rules), func(r Rule) bool { return r.Zone == rule.Zone })
	return NewPolicy(keys, append(rules, rule))
}

// Marshal writes the policy as policy.json.
func (p Policy) Marshal() ([]byte, error) {
	b, err := json.MarshalIndent(policyFile{1, p.keys, p.rules}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("cannot write trust policy: %w", err)
	}
	return append(b, '\n'), nil
}

// Accepted says which keys a thing was accepted for.
type Accepted struct {
	Zone string
	Keys []Key // distinct, in the policy's order
}

// count returns the keys of zone's rule for which signed says yes, or an
// error wrapping ErrUntrusted if they are fewer than the rule asks for.
func (p Policy) count(zone string, signed func(*ecdsa.PublicKey) bool) (Accepted, error) {
	rule, ok := p.Rule(zone)
	if !ok {
		return Accepted{}, fmt.Errorf("%w: the trust policy has no rule for zone %q\nhint: add a rule for the zone to trust/policy.json", ErrUntrusted, zone)
	}
	a := Accepted{Zone: zone}
	for _, k := range p.keys {
		if slices.Contains(rule.Keys, k.ID) && signed(k.public) {
			a.Keys = append(a.Keys, k)
		}
	}
	if len(a.Keys) < rule.Threshold {
		return Accepted{}, fmt.Errorf("%w: signed by %d of the keys for zone %s, %d needed\nhint: have it signed with more of the keys of that rule, or check that the trust policy is the right one", ErrUntrusted, len(a.Keys), zone, rule.Threshold)
	}
	return a, nil
}
