// Package overlays reads what a user declares: site.yaml, the site's own
// manifests, and the rules of its zone. Every fault is found at once and named
// with file, line and column.
//
// The JSON Schema of site.yaml (site.schema.json) is generated from the types
// in this file; their comments are its descriptions.
package overlays

// Site is a site as declared: validated, with defaults filled in, and without
// any digest.
type Site struct {
	// Version of this format: holdfast/v1alpha1.
	APIVersion string `json:"apiVersion" jsonschema:"enum=holdfast/v1alpha1"`
	// Always Site.
	Kind string `json:"kind" jsonschema:"enum=Site"`
	// Name of the site, a DNS label.
	Name string `json:"name" jsonschema:"format=dns-label"`
	// DNS name under which the site's services are reached.
	Domain string `json:"domain" jsonschema:"format=dns-name"`
	// Number of the release that is built from this file. A node accepts a release only if its number is larger than the one it runs.
	Release int64 `json:"release" jsonschema:"minimum=1,maximum=9223372036854775807"`
	// Zone whose rules apply: signatures needed, encryption, access.
	Zone string `json:"zone" jsonschema:"enum=official,enum=official-sensitive,enum=secret"`
	// Operating system of all nodes.
	OS OS `json:"os,omitzero"`
	// Kubernetes distribution and its version.
	Kubernetes Kubernetes `json:"kubernetes"`
	// How much of a machine the platform takes: small for two processors and 8 GiB, large for eight and 32.
	Size string `json:"size,omitempty" jsonschema:"enum=small,enum=large,default=small"`
	// Systems of the platform, from the catalog.
	Components []Component `json:"components,omitempty" jsonschema:"maxItems=100"`
	// Container images of others that the release carries, for the site's own manifests.
	Images []Image `json:"images,omitempty" jsonschema:"maxItems=1000"`
	// Fields of custom resources in the site's manifests that hold an image's name, and are pinned as those of pods are.
	ImageFields []ImageField `json:"imageFields,omitempty" jsonschema:"maxItems=1000"`
	// Helm charts that are rendered into the release, in the order in which they are applied.
	Charts []Chart `json:"charts,omitempty" jsonschema:"maxItems=100"`
	// Kustomizations of the site's directory that are rendered into the release, applied after the charts.
	Kustomizations []Kustomization `json:"kustomizations,omitempty" jsonschema:"maxItems=100"`
	// What manifests may name outside the site.
	Allow Allow `json:"allow,omitzero"`
	// Machines of the site. All boot the same image and find themselves in this list.
	Nodes []Node `json:"nodes" jsonschema:"minItems=1,maxItems=1000"`
	// How nodes take a newer release.
	Updates Updates `json:"updates,omitzero"`
	// Which backups nodes make by themselves.
	Backups Backups `json:"backups,omitzero"`
	// Where the build machine fetches from, if not where the host is configured to.
	Mirrors Mirrors `json:"mirrors,omitzero"`

	// Manifests are the site's own, in the order of their file names.
	Manifests []Manifest `json:"-"`

	doc *document // positions of the values; nil for a Site made in code
}

// OS declares the operating system.
type OS struct {
	// Debian release.
	Suite string `json:"suite,omitempty" jsonschema:"enum=trixie,default=trixie"`
	// Kernel flavour: cloud for virtual machines only, generic for hardware, with firmware and microcode.
	Kernel string `json:"kernel,omitempty" jsonschema:"enum=cloud,enum=generic,default=generic"`
	// Debian packages for the root, besides those that every node has.
	Packages []string `json:"packages,omitempty" jsonschema:"maxItems=1000,format=deb-name"`
	// Dependencies left out of the root.
	Exclude []Exclude `json:"exclude,omitempty" jsonschema:"maxItems=1000"`
}

// Exclude leaves out a package that others depend on.
type Exclude struct {
	// Debian package.
	Name string `json:"name" jsonschema:"format=deb-name"`
	// Why the node works without it.
	Reason string `json:"reason" jsonschema:"format=not-blank,maxLength=500"`
}

// Kubernetes declares the engine.
type Kubernetes struct {
	// Distribution: k3s takes its own release, kubeadm is compiled from source, none is an appliance without Kubernetes.
	Engine string `json:"engine,omitempty" jsonschema:"enum=k3s,enum=kubeadm,enum=none,default=k3s"`
	// Version, as in v1.36.3, or v1.36.3+k3s1 for k3s; not for the engine none.
	Version string `json:"version,omitempty" jsonschema:"format=kubernetes-version"`
	// Directory with the release files of k3s (k3s, k3s-airgap-images-amd64.tar.zst, sha256sum-amd64.txt), relative to the site's; without it they are fetched from mirrors.k3s.
	Files string `json:"files,omitempty" jsonschema:"format=path"`
	// Add-ons of k3s that are switched off: coredns, local-storage, metrics-server, runtimes, servicelb, traefik.
	Disable []string `json:"disable,omitempty" jsonschema:"maxItems=16,format=k3s-addon"`
}

// Component is one system of the platform.
type Component struct {
	// Name in the catalog.
	Name string `json:"name" jsonschema:"format=dns-label"`
	// Where its parts come from: upstream's own images, or images composed from source and Debian packages.
	Origin string `json:"origin" jsonschema:"enum=upstream,enum=source"`
}

// Image is a container image that is taken as it is.
type Image struct {
	// Full name, as manifests call it: registry/repository:tag, with @sha256:… if it is never to move.
	Name string `json:"name" jsonschema:"format=image-name"`
	// OCI layout (a directory or tar file) or docker archive that it is taken from, instead of its registry: a path, relative to the site's directory, or the URL of a file.
	From string `json:"from,omitempty" jsonschema:"format=path"`
	// Digest of the file, in hexadecimal, if from is a URL.
	SHA256 string `json:"sha256,omitempty" jsonschema:"format=sha256"`
	// Who must have signed it.
	Signed Signed `json:"signed,omitzero"`
}

// Signed says whose signature an image must have; it is checked by lock. Either a
// key, or an identity and its issuer.
type Signed struct {
	// File with the public key (PEM, ECDSA on P-256) that cosign verifies with, in the site's trust folder.
	Key string `json:"key,omitempty" jsonschema:"format=trust-file"`
	// Whom the certificate of a signature without a key names (keyless): an address, or the URI of a workflow as in https://github.com/ORG/REPO/.github/workflows/release.yml@refs/tags/v1.
	Identity string `json:"identity,omitempty" jsonschema:"format=identity"`
	// The same as a regular expression (RE2), which must match the whole of it.
	IdentityPattern string `json:"identityPattern,omitempty" jsonschema:"format=regexp"`
	// URL of the OpenID provider that vouched for the identity.
	Issuer string `json:"issuer,omitempty" jsonschema:"format=identity"`
	// File with the trusted root (JSON) of a Sigstore that is not the public one, in the site's trust folder.
	Root string `json:"root,omitempty" jsonschema:"format=trust-file"`
}

// ImageField is a field that holds an image's name, in all objects of one kind.
type ImageField struct {
	// Group of the API, as in example.org; none for the core's.
	Group string `json:"group,omitempty" jsonschema:"format=dns-name"`
	// Kind of the objects.
	Kind string `json:"kind" jsonschema:"format=kind"`
	// Keys with dots between them, as in spec.image; [] after a key goes through its list or mapping, as in spec.tools[].image.
	Path string `json:"path" jsonschema:"format=field-path"`
}

// Chart is a Helm chart and what it is rendered with. One of path, oci and repo
// says where it comes from.
type Chart struct {
	// Name of the component in the release, and of Helm's release.
	Name string `json:"name" jsonschema:"format=release-name"`
	// Namespace that the chart is installed into; it is made if nothing in the release declares it.
	Namespace string `json:"namespace" jsonschema:"format=dns-label"`
	// Directory or .tgz of the chart, relative to the site's directory.
	Path string `json:"path,omitempty" jsonschema:"format=site-path"`
	// Name of the chart in a registry: registry/repository:version, with @sha256:… if it is never to move.
	OCI string `json:"oci,omitempty" jsonschema:"format=image-name"`
	// URL of a chart repository, where its index.yaml is.
	Repo string `json:"repo,omitempty" jsonschema:"format=mirror-url"`
	// Name of the chart in the repository.
	Chart string `json:"chart,omitempty" jsonschema:"format=chart-name"`
	// Version of the chart in the repository, as it is written there.
	Version string `json:"version,omitempty" jsonschema:"format=chart-version"`
	// Files with values, relative to the site's directory; the later ones win.
	Values []string `json:"values,omitempty" jsonschema:"maxItems=50,format=site-path"`
	// Values, which win over those of the files.
	Set map[string]any `json:"set,omitempty"`
	// Kinds that are served though nothing in the release defines them, as group/version or group/version/Kind.
	APIVersions []string `json:"apiVersions,omitempty" jsonschema:"maxItems=200,format=api-version"`
	// Secrets that the node makes, once, in the chart's namespace.
	Secrets []ChartSecret `json:"secrets,omitempty" jsonschema:"maxItems=50"`
}

// ChartSecret is made on the node of random letters and digits.
type ChartSecret struct {
	// Name of the Secret.
	Name string `json:"name" jsonschema:"format=dns-label"`
	// Its keys, and how many characters each has.
	Generate map[string]int `json:"generate"`
}

// Kustomization is a directory with a kustomization.yaml.
type Kustomization struct {
	// Name of the component in the release.
	Name string `json:"name" jsonschema:"format=release-name"`
	// Directory, relative to the site's; what it refers to may lie anywhere in the site's directory.
	Path string `json:"path" jsonschema:"format=site-path"`
}

// Allow is what manifests may name outside the site.
type Allow struct {
	// Hosts outside the site.
	Hosts []AllowedHost `json:"hosts,omitempty" jsonschema:"maxItems=1000"`
}

// AllowedHost is a host outside the site that manifests may name.
type AllowedHost struct {
	// Name in lower case, *. and a name for all below it, or an IP address.
	Name string `json:"name" jsonschema:"format=host-pattern"`
	// Why it must stay.
	Reason string `json:"reason" jsonschema:"format=not-blank,maxLength=500"`
}

// Node is one machine.
type Node struct {
	// Host name, a DNS label.
	Name string `json:"name" jsonschema:"format=dns-label"`
	// How a machine knows that it is this node.
	Match Match `json:"match"`
	// IP address with prefix length, as in 10.0.2.15/24.
	Address string `json:"address" jsonschema:"format=ip-prefix"`
	// IP address of the default route, inside the network of address.
	Gateway string `json:"gateway" jsonschema:"format=ip"`
	// IP addresses of DNS servers.
	DNS []string `json:"dns,omitempty" jsonschema:"maxItems=8,format=ip"`
	// IP addresses of time servers.
	NTP []string `json:"ntp,omitempty" jsonschema:"maxItems=8,format=ip"`
	// Block device to install to; without it, the operator chooses.
	Disk string `json:"disk,omitempty" jsonschema:"format=device"`
	// Part that the node has in the cluster.
	Role string `json:"role,omitempty" jsonschema:"enum=server,enum=agent,default=server"`
}

// Match identifies a machine; all that is given must be true of it.
type Match struct {
	// Serial number, as the firmware tells it.
	Serial string `json:"serial,omitempty" jsonschema:"format=serial"`
	// Address of one of its network cards.
	MAC string `json:"mac,omitempty" jsonschema:"format=mac"`
}

// Updates are the rules of a node that takes this release.
type Updates struct {
	// Minutes from the start of the agent within which node, engine and platform must be healthy, or the node goes back to the release it had.
	HealthyWithin int `json:"healthyWithin,omitempty" jsonschema:"minimum=1,maximum=1440,default=20"`
}

// Backups are made by the node itself.
type Backups struct {
	// Hours from one backup to the next.
	EveryHours int `json:"everyHours" jsonschema:"minimum=1,maximum=8760"`
	// Backups of this site that stay; older ones are removed once a new one is whole.
	Keep int `json:"keep,omitempty" jsonschema:"minimum=1,maximum=1000,default=7"`
	// Server on the site's network that they go to, sftp://USER@ADDRESS/DIRECTORY or s3://ADDRESS/BUCKET/PREFIX; without it, a stick labelled HF-BACKUP that stays in the node.
	To string `json:"to,omitempty" jsonschema:"format=backup-url"`
	// Public host keys of an SSH server, as ssh-keyscan prints them without the name; it must show one of them.
	HostKeys []string `json:"hostKeys,omitempty" jsonschema:"maxItems=8,format=ssh-key"`
	// File with the certificates (PEM) of the authorities that vouch for an S3 server, in the site's trust folder; no others count.
	Authority string `json:"authority,omitempty" jsonschema:"format=trust-file"`
	// Region that an S3 server takes itself to be in.
	Region string `json:"region,omitempty" jsonschema:"format=region,default=us-east-1"`
}

// Mirrors are the places that the build machine fetches from.
type Mirrors struct {
	// Debian archives.
	Debian []string `json:"debian,omitempty" jsonschema:"maxItems=16,format=mirror-url"`
	// Debian security archives.
	DebianSecurity []string `json:"debianSecurity,omitempty" jsonschema:"maxItems=16,format=mirror-url"`
	// Go module proxy.
	GoProxy string `json:"goproxy,omitempty" jsonschema:"format=mirror-url"`
	// Maven repositories.
	Maven []string `json:"maven,omitempty" jsonschema:"maxItems=16,format=mirror-url"`
	// Places that have a directory of release files for each version of k3s; without any, the project's own on GitHub.
	K3s []string `json:"k3s,omitempty" jsonschema:"maxItems=16,format=mirror-url"`
	// Registries of container images.
	Registries []RegistryMirror `json:"registries,omitempty" jsonschema:"maxItems=100"`
}

// RegistryMirror says where the images of one registry are fetched from.
type RegistryMirror struct {
	// Registry, as images are named after it: docker.io, registry.example:5000.
	Name string `json:"name" jsonschema:"format=registry"`
	// Base URLs that are asked in its place, in this order; without any, the registry itself. http:// is asked without encryption.
	Endpoints []string `json:"endpoints,omitempty" jsonschema:"maxItems=16,format=registry-url"`
	// Other paths that repositories have there; the first that matches counts.
	Rewrite []Rewrite `json:"rewrite,omitempty" jsonschema:"maxItems=100"`
	// File with certificates (PEM) that are trusted there besides the system's, in the site's trust folder.
	CA string `json:"ca,omitempty" jsonschema:"format=trust-file"`
}

// Rewrite gives repositories another path.
type Rewrite struct {
	// Regular expression (RE2) that the repository is held against.
	Match string `json:"match" jsonschema:"format=regexp"`
	// What the matched part becomes; $1 is what the first group matched.
	To string `json:"to"`
}

// Manifest is one file of the site's manifests folder.
type Manifest struct {
	Name string // of the file, without its folder
	Data []byte
}

// withDefaults fills in what the file leaves open.
func (s Site) withDefaults() Site {
	def := func(p *string, v string) {
		if *p == "" {
			*p = v
		}
	}
	def(&s.OS.Suite, "trixie")
	def(&s.OS.Kernel, "generic")
	def(&s.Kubernetes.Engine, "k3s")
	def(&s.Size, "small")
	if s.Updates.HealthyWithin == 0 {
		s.Updates.HealthyWithin = 20
	}
	if s.Backups.EveryHours != 0 && s.Backups.Keep == 0 {
		s.Backups.Keep = 7
	}
	for i := range s.Nodes {
		def(&s.Nodes[i].Role, "server")
	}
	return s
}
