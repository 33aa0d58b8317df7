// Package catalog holds the components of the platform: their images, how each
// is made from source, the programs they put on the host and their manifests.
//
// A component is a directory below components: component.yaml, manifests/*.yaml
// and recipes/NAME. A recipe's go.mod and go.sum are stored as recipe.mod and
// recipe.sum and its Go files with ".txt" after their names, so that they are
// neither modules nor packages of holdfast itself.
package catalog

import (
	"slices"
	"strings"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/signing"
)

// Toolchain is the Go release that the recipes are known to build with.
const Toolchain = "go1.26.8"

// Component is one system of the platform, as component.yaml declares it.
type Component struct {
	Name         string        `json:"name"`
	Description  string        `json:"description"`
	Namespace    string        `json:"namespace,omitempty"` // of its workloads
	Needs        []string      `json:"needs,omitempty"`     // components that must be ready before it is applied
	After        []string      `json:"after,omitempty"`     // components that must be applied before it; its pods wait for them
	Yields       []string      `json:"yields,omitempty"`    // components whose long start it leaves the processors to, where the site has them
	Uses         []Use         `json:"uses,omitempty"`      // what others offer; it needs them too
	With         []With        `json:"with,omitempty"`      // where the site has another one too
	Offers       []Offer       `json:"offers,omitempty"`
	Rollback     string        `json:"rollback,omitempty"` // Stays or Restore; of components with volumes
	Images       []Image       `json:"images,omitempty"`
	Secrets      []Secret      `json:"secrets,omitempty"`
	Ready        []Ready       `json:"ready,omitempty"`
	Node         OnNode        `json:"node,omitzero"`
	HostPrograms []HostProgram `json:"hostPrograms,omitempty"`
	// ImageFields are fields of custom resources that hold an image's name,
	// and are pinned like those of pods.
	ImageFields []ImageField `json:"imageFields,omitempty"`
	// Allow is what its manifests may name outside the site.
	Allow Allow `json:"allow,omitzero"`

	Manifests []File            `json:"-"` // manifests/*.yaml as written, by name
	Hooks     map[string]File   `json:"-"` // hooks/*, by name
	Files     map[string][]byte `json:"-"` // files/*, by name
	Sizes     map[string]File   `json:"-"` // sizes/*.yaml, by size: what of its manifests is otherwise

	Withs map[string][]File `json:"-"` // with/COMPONENT/*.yaml, by component

	OfUpstream []File `json:"-"` // upstream/*.yaml: what of its manifests is otherwise with its project's images

	hooks []File // of others, for this one; see Wire
	late  []File // of its own, for others that do not wait for them
	dumps []File // of others, that keep the data of this one
	puts  []File // and put it back
}

// Image is a container image: how it is made, and whose it is otherwise.
type Image struct {
	Name     string   `json:"name"` // registry/repository:tag, as manifests and programs call it
	Source   Source   `json:"source"`
	Upstream Upstream `json:"upstream,omitzero"` // for the origin upstream
}

// Upstream is the image that a project itself publishes.
type Upstream struct {
	Ref string `json:"ref"`           // registry/repository:tag, with @sha256:… if it is to stay
	Key string `json:"key,omitempty"` // PEM; the public key that its makers sign with, by cosign; may be empty
	// Keyless is who they are where they sign without a key that others know; the
	// public Sigstore's word counts.
	Keyless signing.Identity `json:"keyless,omitzero"`
	// Add is what is put over it, programs above all, and what it runs then in
	// place of what it says itself. No archives; nil: it is taken as it is. Of
	// packages, what is excluded is what the project's image has: build looks.
	Add *Source `json:"add,omitempty"`
}

// HasSource reports whether each image of c can be composed.
func (c Component) HasSource() bool {
	return !slices.ContainsFunc(c.Images, func(im Image) bool { return !im.Source.holdsSomething() })
}

func (s Source) holdsSomething() bool { return len(s.Debs) > 0 || len(s.Go) > 0 }

// HasUpstream reports whether each image of c can be had from its project.
func (c Component) HasUpstream() bool {
	return !slices.ContainsFunc(c.Images, func(im Image) bool { return im.Upstream.Ref == "" })
}

// Source composes an image: Debian packages first, then programs, directories,
// files and links, each put in place of what is there.
type Source struct {
	Debs       []string    `json:"debs,omitempty"`    // packages of the site's Debian suite
	Exclude    []Exclude   `json:"exclude,omitempty"` // dependencies that are left out
	Go         []GoProgram `json:"go,omitempty"`
	Maven      []Archive   `json:"maven,omitempty"` // unpacked
	Data       []Data      `json:"data,omitempty"`
	Dirs       []Dir       `json:"dirs,omitempty"`
	Files      []TextFile  `json:"files,omitempty"`
	Links      []Link      `json:"links,omitempty"`
	Steps      []Step      `json:"steps,omitempty"` // run over all of these
	Entrypoint []string    `json:"entrypoint,omitempty"`
	Cmd        []string    `json:"cmd,omitempty"`
	Env        []string    `json:"env,omitempty"`  // NAME=value
	User       string      `json:"user,omitempty"` // "uid:gid"
	WorkingDir string      `json:"workingDir,omitempty"`
}

// Step is a program of the image that is run once while the image is made, with
// no network. It must write the same bytes whenever and wherever it runs.
type Step struct {
	Run   []string  `json:"run"`             // program and arguments
	Env   []string  `json:"env,omitempty"`   // NAME=value; all of its environment
	Maven []Archive `json:"maven,omitempty"` // there for the step alone; those that are a jar as a file
	Data  []Data    `json:"data,omitempty"`  // there for the step alone
	Keep  string    `json:"keep"`            // the directory of which the image gets what is there then
}

// Exclude is a Debian package that is never chosen, and why.
type Exclude struct {
	Name   string `json:"name"`
	Reason string `json:"reason"`
}

// GoProgram is a program of a recipe at a path in an image.
type GoProgram struct {
	Recipe  string `json:"recipe"`
	Program string `json:"program"`
	Path    string `json:"path"` // absolute
}

// HostProgram is a program of a recipe at a path in the OS root.
type HostProgram GoProgram

// Dir is a directory in an image.
type Dir struct {
	Path string `json:"path"`
	Mode string `json:"mode"` // octal
	UID  int    `json:"uid,omitempty"`
	GID  int    `json:"gid,omitempty"`
}

// Archive is a tar.gz of a Maven repository, unpacked without its top directory,
// or a jar, in a step alone.
type Archive struct {
	Artifact string       `json:"artifact"` // group:artifact:version:type
	Digest   store.Digest `json:"digest"`
	Size     int64        `json:"size"`
	Path     string       `json:"path"`           // of the directory in the image, or of the jar
	Drop     []string     `json:"drop,omitempty"` // what is left out, below that directory
}

// IsJar reports whether the artifact is one file, that is not unpacked.
func (a Archive) IsJar() bool { return strings.HasSuffix(a.Artifact, ":jar") }

// Content is the artifact's.
func (a Archive) Content() store.Content { return store.Content{Digest: a.Digest, Size: a.Size} }

// Data is a file of the component's folder "files", owned by root.
type Data struct {
	Path string `json:"path"` // in the image
	File string `json:"file"` // its name in the folder
}

// TextFile is a small file in an image, owned by root.
type TextFile struct {
	Path string `json:"path"`
	Mode string `json:"mode"` // octal
	Text string `json:"text"`
}

// Link is a symbolic link in an image.
type Link struct {
	Path   string `json:"path"`
	Target string `json:"target"`
}

// What becomes of a component's volumes when a release goes back.
const (
	Stays   = "stays"   // an earlier version reads what a later one wrote
	Restore = "restore" // it does not: data is dumped before the later version starts, and put back
)

// Offer is something that a component has for others: a secret of its own that
// is shared, or what a hook makes for each client.
type Offer struct {
	Name string `json:"name"`
	// Hook is a Job in the folder "hooks", run for each client in the component's
	// own namespace. "CLIENT" in it stands for the client's name. Doing it again
	// changes nothing.
	Hook string `json:"hook,omitempty"`
	// Dump and Restore are Jobs likewise, for clients whose rollback is Restore:
	// they keep a client's data before another release of it, and put it back.
	Dump    string `json:"dump,omitempty"`
	Restore string `json:"restore,omitempty"`
	// Generate are the keys of the secret that client and hook have in common.
	Generate map[string]int `json:"generate,omitempty"`
	// Share names a secret of the component, of which clients get the keys.
	Share *Share `json:"share,omitempty"`
	// Words are those in its Jobs, beside CLIENT, that stand for what each
	// client says of itself.
	Words []string `json:"words,omitempty"`
}

// Share is a part of a secret.
type Share struct {
	Secret string   `json:"secret"`
	Keys   []string `json:"keys"`
}

// Use takes an offer of another component.
type Use struct {
	Component string `json:"component"`
	Offer     string `json:"offer"`
	Secret    string `json:"secret,omitempty"` // its name in the namespace of the one that uses it, if it gets one
	// Words are what stands in the Jobs for each of the offer's words.
	Words map[string]string `json:"words,omitempty"`

	late bool // not waited for
}

// Secret is made once on the node: for each key of Generate, that many random
// characters; for each of Pairs, a key and a certificate for it.
type Secret struct {
	Name      string         `json:"name"`
	Namespace string         `json:"namespace"`
	Generate  map[string]int `json:"generate,omitempty"`
	Pairs     []Pair         `json:"pairs,omitempty"`
	From      *From          `json:"-"` // in place of both: what another one holds
}

// Pair is a private key, PKCS #8 in PEM, and a certificate that it signed itself.
type Pair struct {
	Key         string `json:"key"`         // its key in the secret
	Certificate string `json:"certificate"` // and that of the certificate
	CommonName  string `json:"commonName"`
	Authority   bool   `json:"authority,omitempty"` // may sign other certificates, and nothing else
}

// From names the secret that another one's values come from.
type From struct {
	Name, Namespace string
	Keys            []string // none means all
}

// Ready is an object whose readiness is the component's.
type Ready struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

// ImageField names a field that holds an image's name, in all objects of one
// kind.
type ImageField struct {
	Group string `json:"group,omitempty"` // of the API; none for the core's
	Kind  string `json:"kind"`
	Path  string `json:"path"` // keys with dots between them; "[]" after one goes through its list or mapping
}

// Allow is what manifests may name outside the site.
type Allow struct {
	Hosts []Allowance `json:"hosts,omitempty"`
}

// Allowance is a host that may be named, and why.
type Allowance struct {
	Name   string `json:"name"` // a name, a leading "*." for all below it, or an IP address
	Reason string `json:"reason"`
}

// File is a file of manifests.
type File struct {
	Name string
	Data []byte
}
