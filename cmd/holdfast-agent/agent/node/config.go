// Package node knows what node.json says, which of its nodes this machine is,
// and the network that follows from it.
package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
)

// Config is node.json of a release: what the agent needs of the site.
type Config struct {
	Name       string      `json:"name"`
	Release    int         `json:"release"`
	Zone       string      `json:"zone"`
	Domain     string      `json:"domain"`
	Epoch      int64       `json:"epoch"` // seconds
	LabAccess  bool        `json:"labAccess"`
	Engine     Engine      `json:"engine"`
	Nodes      []Node      `json:"nodes"`
	Images     []Image     `json:"images"`
	Components []Component `json:"components"` // in dependency order
	Updates    Updates     `json:"updates"`
	Services   Services    `json:"services,omitzero"`
	Recovery   []string    `json:"recovery,omitempty"` // public keys that backups are encrypted to
	Backups    Backups     `json:"backups,omitzero"`
}

// Updates says how the node takes this release.
type Updates struct {
	HealthyWithin int `json:"healthyWithin"` // minutes; 0 means 20
}

// Backups says which the node makes by itself, and where they go.
type Backups struct {
	EveryHours int      `json:"everyHours"`          // 0: none
	Keep       int      `json:"keep"`                // that stay there
	To         string   `json:"to,omitempty"`        // sftp://USER@ADDRESS[:PORT]/DIRECTORY or s3://ADDRESS[:PORT]/BUCKET[/PREFIX]; empty for a stick that stays in the node
	HostKeys   []string `json:"hostKeys,omitempty"`  // of that server, as "ssh-ed25519 AAAA…"; of SFTP
	Authority  string   `json:"authority,omitempty"` // certificates (PEM) that vouch for that server; of S3
	Region     string   `json:"region,omitempty"`    // of S3; empty means us-east-1
}

// NoEngine is the engine of an appliance without Kubernetes.
const NoEngine = "none"

// Engine is the Kubernetes distribution of the release.
type Engine struct {
	Name    string   `json:"name"`
	Version string   `json:"version"`
	Pause   string   `json:"pause"`             // full name of the sandbox image, with tag; not for k3s
	Disable []string `json:"disable,omitempty"` // add-ons of k3s that are switched off
}

// Node is one machine of the site.
type Node struct {
	Name    string   `json:"name"`
	Match   Match    `json:"match"`
	Address string   `json:"address"` // with prefix length
	Gateway string   `json:"gateway"` // empty: the node reaches only its own network
	DNS     []string `json:"dns"`
	NTP     []string `json:"ntp"`
	Role    string   `json:"role"`
}

// IP is the node's address without its prefix length.
func (n Node) IP() string {
	p, err := netip.ParsePrefix(n.Address)
	if err != nil {
		return ""
	}
	return p.Addr().String()
}

// Match says which machine is the node; what is given must all be so.
type Match struct {
	Serial string `json:"serial,omitempty"`
	MAC    string `json:"mac,omitempty"`
}

// Image is one image of the release; Name has registry and tag.
type Image struct {
	Name      string `json:"name"`
	Digest    string `json:"digest"`
	Component string `json:"component"`
}

// Ref is the image's name with its digest.
func (i Image) Ref() string { return i.Name + "@" + i.Digest }

// Component is one system of the platform.
type Component struct {
	Name      string   `json:"name"`
	Namespace string   `json:"namespace"`
	Needs     []string `json:"needs"`            // ready before it is applied; one that is no component here is part of the OS
	After     []string `json:"after,omitempty"`  // applied before it
	Uses      []string `json:"uses,omitempty"`   // used by its pods, which wait for them by themselves
	Yields    []string `json:"yields,omitempty"` // ready before it is applied, for as long as that is patient
	Secrets   []Secret `json:"secrets"`
	First     []Ready  `json:"first,omitempty"` // Jobs that must have ended before its workloads are applied
	Ready     []Ready  `json:"ready"`
	Rollback  string   `json:"rollback,omitempty"` // of its volumes: "stays" or "restore"
}

// Secret is made on the node; Generate gives the length of each key's value.
// With From, it holds what another secret holds, and nothing is made.
type Secret struct {
	Name      string         `json:"name"`
	Namespace string         `json:"namespace"`
	Generate  map[string]int `json:"generate"`
	Pairs     []Pair         `json:"pairs,omitempty"`
	From      *From          `json:"from,omitempty"`
}

// Pair names the keys of a private key and of the certificate that it signed.
type Pair struct {
	Key         string `json:"key"`
	Certificate string `json:"certificate"`
	CommonName  string `json:"commonName"`
	Authority   bool   `json:"authority,omitempty"` // may sign other certificates
}

// From is another secret of the node, or some keys of it.
type From struct {
	Name      string   `json:"name"`
	Namespace string   `json:"namespace"`
	Keys      []string `json:"keys,omitempty"` // none means all
}

// Ready names a workload that must be rolled out for its component to be healthy.
type Ready struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

var label = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`)

// Parse reads node.json and checks what the agent builds names and paths from.
// The error joins all faults.
func Parse(b []byte) (Config, error) {
	var c Config
	if err := json.Unmarshal(b, &c); err != nil {
		return Config{}, fmt.Errorf("cannot read node.json: %w", err)
	}
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf("cannot use node.json: "+format, a...)) }
	for _, n := range c.Nodes {
		if !label.MatchString(n.Name) {
			bad("node name %q", n.Name)
		}
		if _, err := netip.ParsePrefix(n.Address); err != nil {
			bad("node %s: address: %w", n.Name, err)
		}
		for _, a := range append(slices.Clone(n.DNS), n.Gateway) {
			if _, err := netip.ParseAddr(a); a != "" && err != nil {
				bad("node %s: %w", n.Name, err)
			}
		}
		for _, a := range n.NTP {
			if !label.MatchString(a) && !isAddr(a) {
				bad("node %s: time server %q", n.Name, a)
			}
		}
	}
	for _, k := range c.Components {
		for _, s := range k.Secrets {
			if !label.MatchString(s.Name) || !label.MatchString(s.Namespace) {
				bad("component %s: secret %q in %q", k.Name, s.Name, s.Namespace)
			}
			if f := s.From; f != nil && (!label.MatchString(f.Name) || !label.MatchString(f.Namespace) || len(s.Generate)+len(s.Pairs) > 0) {
				bad("component %s: secret %s from %q in %q", k.Name, s.Name, f.Name, f.Namespace)
			}
			for key, n := range s.Generate {
				if n < 1 || n > 1024 {
					bad("component %s: secret %s: %s of %d characters", k.Name, s.Name, key, n)
				}
			}
		}
	}
	errs = append(errs, c.Services.check()...)
	return c, errors.Join(errs...)
}

func isAddr(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}
