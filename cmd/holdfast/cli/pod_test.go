package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles/catalog"
)

// pods runs the containers of rendered manifests on this machine, without a
// cluster: each image unpacked, read-only, with the volumes, the user and the
// environment that its manifest says, all in one network that leads nowhere.
type pods struct {
	t       *testing.T
	dir     string // volumes and unpacked images
	store   *store.Store
	images  map[string]store.Content // by name
	objects []object
	secrets map[string]map[string]string // NAMESPACE/NAME
	netns   string
	trust   string            // the certificate of what answers for the public names
	site    map[string]string // the secret of the site's authority
	ca      string            // its certificate

	management string // Keycloak's port for it, if not its own
}

type object struct {
	Kind     string
	Metadata struct{ Name, Namespace string }
	Data     map[string]string
	Spec     struct {
		Template             struct{ Spec podSpec }
		VolumeClaimTemplates []struct{ Metadata struct{ Name string } }
		// Of a Certificate.
		SecretName string
		DNSNames   []string
	}
}

type podSpec struct {
	SecurityContext struct{ RunAsUser, RunAsGroup int }
	Containers      []container
	Volumes         []volume
}

type container struct {
	Name, Image   string
	Command, Args []string
	Env           []envVar
	VolumeMounts  []struct {
		Name, MountPath string
		ReadOnly        bool
	}
	ReadinessProbe struct{ Exec struct{ Command []string } }
}

type envVar struct {
	Name, Value string
	ValueFrom   struct{ FieldRef struct{ FieldPath string } }
}

type volume struct {
	Name                  string
	ConfigMap             *struct{ Name string }
	Secret                *secretVolume
	EmptyDir              *struct{}
	PersistentVolumeClaim *struct{ ClaimName string }
	HostPath              *struct{ Path string }
	Projected             *struct {
		Sources []struct{ Secret projectedSecret }
	}
}

// projectedSecret is a secret among the sources of a volume.
type projectedSecret struct {
	Name  string
	Items []struct{ Key, Path string }
}

// secretVolume has the whole secret, or the keys of Items under other names.
type secretVolume struct {
	SecretName string
	Items      []struct{ Key, Path string }
}

// nodeName is what the only node is called here.
const nodeName = "node-1"

// hosts is what the cluster's names lead to here.
const hosts = "127.0.0.1 localhost postgresql.postgresql.svc.cluster.local keycloak.keycloak.svc.cluster.local registry.registry.svc.cluster.local minio.minio.svc.cluster.local valkey.valkey.svc.cluster.local loki.loki.svc.cluster.local alertmanager.monitoring.svc.cluster.local cert-manager.certificates.svc.cluster.local id.source.example registry.source.example\n"

// hostsFile knows the host's own name too, as a pod's does.
func hostsFile(t *testing.T) []byte {
	name, err := os.Hostname()
	must(t, err)
	return []byte(hosts + "127.0.0.1 " + name + "\n")
}

// runsPods skips a test that runs images, where that is not wanted or cannot be.
func runsPods(t *testing.T, tools ...string) {
	t.Helper()
	if os.Getenv("HOLDFAST_PLATFORM_TEST") == "" {
		t.Skip("set HOLDFAST_PLATFORM_TEST=1; it needs root, mirrors and some minutes")
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can enter another root")
	}
	for _, tool := range append([]string{"ip", "unshare", "chroot", "curl"}, tools...) {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("no %s", tool)
		}
	}
}

// compilesLong skips a test whose program takes minutes to compile.
func compilesLong(t *testing.T, program string) {
	t.Helper()
	if os.Getenv("HOLDFAST_LONG") == "" {
		t.Skipf("compiles %s, for minutes; HOLDFAST_LONG=1 runs it, as make test-long does", program)
	}
}

func newPods(t *testing.T, s *store.Store, images map[string]store.Content) *pods {
	p := &pods{t: t, dir: t.TempDir(), store: s, images: images, secrets: map[string]map[string]string{}, netns: fmt.Sprintf("holdfast-%d", os.Getpid())}
	// The users of containers must get to their volumes.
	for d := p.dir; len(d) > len(os.TempDir()); d = filepath.Dir(d) {
		must(t, os.Chmod(d, 0o755))
	}
	p.sh("ip", "netns", "add", p.netns)
	t.Cleanup(func() { p.sh("ip", "netns", "del", p.netns) })
	p.sh("ip", "-n", p.netns, "link", "set", "lo", "up")
	etc := "/etc/netns/" + p.netns
	must(t, os.MkdirAll(etc, 0o755))
	t.Cleanup(func() { os.RemoveAll(etc) })
	must(t, os.WriteFile(etc+"/hosts", hostsFile(t), 0o644))
	return p
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (p *pods) sh(name string, args ...string) string {
	p.t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		p.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// inside runs a program of this machine in the network of the pods.
func (p *pods) inside(name string, args ...string) (string, error) {
	out, err := exec.Command("ip", append([]string{"netns", "exec", p.netns, name}, args...)...).CombinedOutput()
	return string(out), err
}

// apply remembers the objects of manifests.
func (p *pods) apply(files []catalog.File) {
	p.t.Helper()
	for _, f := range files {
		for _, doc := range strings.Split(string(f.Data), "---\n") {
			var o object
			must(p.t, yaml.Unmarshal([]byte(doc), &o))
			p.objects = append(p.objects, o)
		}
	}
}

func (p *pods) find(kind, namespace, prefix string) object {
	p.t.Helper()
	for _, o := range p.objects {
		if o.Kind == kind && o.Metadata.Namespace == namespace && strings.HasPrefix(o.Metadata.Name, prefix) {
			return o
		}
	}
	p.t.Fatalf("no %s %s/%s in the manifests", kind, namespace, prefix)
	return object{}
}

// setEnv sets a variable of the first container of a workload of that kind, in
// the namespace of its name.
func (p *pods) setEnv(kind, name, variable, value string) {
	p.t.Helper()
	c := &p.find(kind, name, name).Spec.Template.Spec.Containers[0]
	c.Env = append(c.Env, envVar{Name: variable, Value: value})
}

// start starts the first container of a workload; what it prints goes to a file.
func (p *pods) start(kind, namespace, name string) *running {
	p.t.Helper()
	o := p.find(kind, namespace, name)
	for _, v := range o.Spec.Template.Spec.Volumes {
		if v.EmptyDir != nil {
			must(p.t, os.RemoveAll(p.dirOf(o, v.Name)))
		}
	}
	return p.container(o, 0)
}

// beside starts another container of a workload whose first one runs.
func (p *pods) beside(kind, namespace, name, container string) *running {
	p.t.Helper()
	o := p.find(kind, namespace, name)
	for i, c := range o.Spec.Template.Spec.Containers {
		if c.Name == container {
			return p.container(o, i)
		}
	}
	p.t.Fatalf("%s %s/%s has no container %s", kind, namespace, name, container)
	return nil
}

func (p *pods) container(o object, number int) *running {
	p.t.Helper()
	namespace, name := o.Metadata.Namespace, o.Metadata.Name
	spec := o.Spec.Template.Spec
	for _, v := range o.Spec.VolumeClaimTemplates {
		claim := struct{ ClaimName string }{o.Metadata.Name + "-" + v.Metadata.Name}
		spec.Volumes = append(spec.Volumes, volume{Name: v.Metadata.Name, PersistentVolumeClaim: &claim})
	}
	c := spec.Containers[number]
	root, config := p.unpack(c.Image)
	var mounts []string
	for _, m := range c.VolumeMounts {
		dir := p.volume(o, spec, m.Name)
		target := filepath.Join(root, m.MountPath)
		must(p.t, os.MkdirAll(target, 0o755))
		mounts = append(mounts, fmt.Sprintf("mount --bind %s %s", dir, target))
		if m.ReadOnly {
			mounts = append(mounts, "mount -o remount,bind,ro "+target)
		}
	}
	must(p.t, os.MkdirAll(root+"/etc", 0o755))
	must(p.t, os.WriteFile(root+"/etc/hosts", hostsFile(p.t), 0o644))
	must(p.t, os.WriteFile(root+"/etc/resolv.conf", []byte("nameserver 192.0.2.53\n"), 0o644))
	for _, d := range []string{"proc", "dev"} {
		must(p.t, os.MkdirAll(filepath.Join(root, d), 0o755))
	}
	argv := append(c.Command, c.Args...)
	if len(c.Command) == 0 {
		if len(c.Args) == 0 {
			c.Args = config.Cmd
		}
		argv = append(config.Entrypoint, c.Args...)
	}
	user := fmt.Sprintf("%d:%d", spec.SecurityContext.RunAsUser, spec.SecurityContext.RunAsGroup)
	env := config.Env
	for _, e := range c.Env {
		if e.ValueFrom.FieldRef.FieldPath == "spec.nodeName" {
			e.Value = nodeName
		}
		env = append(env, e.Name+"="+e.Value)
	}
	script := fmt.Sprintf("set -e; mount --make-rprivate /; mount --bind %[1]s %[1]s; mount -o remount,bind,ro %[1]s; %[2]s; mount -t proc proc %[1]s/proc; mount --rbind /dev %[1]s/dev; exec chroot --userspec=%[3]s --groups= %[1]s \"$@\"",
		root, strings.Join(mounts, "; "), user)
	cmd := exec.Command("ip", append([]string{"netns", "exec", p.netns, "unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script, "sh"}, argv...)...)
	cmd.Env = env
	// The tools before chroot are found by it too.
	if !strings.Contains(strings.Join(env, "\n"), "PATH=") {
		cmd.Env = append(cmd.Env, "PATH=/usr/bin")
	}
	for i, e := range cmd.Env {
		if strings.HasPrefix(e, "PATH=") {
			cmd.Env[i] = e + ":/usr/sbin:/sbin:/usr/bin:/bin"
		}
	}
	log, err := os.Create(filepath.Join(p.dir, namespace+"-"+name+"-"+c.Name+".log"))
	must(p.t, err)
	cmd.Stdout, cmd.Stderr = log, log
	must(p.t, cmd.Start())
	r := &running{t: p.t, name: namespace + "/" + name, cmd: cmd, log: log.Name(), ended: make(chan error, 1), with: syscall.SIGTERM}
	go func() { r.ended <- cmd.Wait(); log.Close() }()
	p.t.Cleanup(r.stop)
	return r
}

// volume is the directory that stands for a volume of the pod.
func (p *pods) volume(o object, spec podSpec, name string) string {
	p.t.Helper()
	for _, v := range spec.Volumes {
		if v.Name != name {
			continue
		}
		ns, mode := o.Metadata.Namespace, os.FileMode(0o755)
		dir := p.dirOf(o, name)
		var files map[string]string
		switch {
		case v.ConfigMap != nil:
			files = p.find("ConfigMap", ns, v.ConfigMap.Name).Data
		case v.Secret != nil:
			files = p.secrets[ns+"/"+v.Secret.SecretName]
			if len(files) == 0 {
				p.t.Fatalf("nothing makes the secret %s/%s", ns, v.Secret.SecretName)
			}
			files = v.Secret.of(p.t, files)
		case v.Projected != nil:
			files = map[string]string{}
			for _, source := range v.Projected.Sources {
				sv := secretVolume{source.Secret.Name, source.Secret.Items}
				maps.Copy(files, sv.of(p.t, p.secrets[ns+"/"+sv.SecretName]))
			}
		case v.PersistentVolumeClaim != nil:
			dir, mode = filepath.Join(p.dir, "volumes", ns, "claim", v.PersistentVolumeClaim.ClaimName), 0o777
		case v.HostPath != nil:
			dir = p.host(v.HostPath.Path)
		case v.EmptyDir != nil:
			mode = 0o777
		}
		must(p.t, os.MkdirAll(dir, 0o755))
		must(p.t, os.Chmod(dir, mode))
		for k, text := range files {
			must(p.t, os.WriteFile(filepath.Join(dir, k), []byte(text), 0o440))
			must(p.t, os.Chown(filepath.Join(dir, k), 0, spec.SecurityContext.RunAsGroup))
		}
		return dir
	}
	p.t.Fatalf("no volume %s", name)
	return ""
}

func (p *pods) dirOf(o object, volume string) string {
	return filepath.Join(p.dir, "volumes", o.Metadata.Namespace, o.Metadata.Name, volume)
}

// host is the directory that stands for one of the node.
func (p *pods) host(path string) string { return filepath.Join(p.dir, "host", path) }

// of gives the files of the volume.
func (v secretVolume) of(t *testing.T, values map[string]string) map[string]string {
	t.Helper()
	if len(v.Items) == 0 {
		return values
	}
	out := map[string]string{}
	for _, i := range v.Items {
		text, ok := values[i.Key]
		if !ok {
			t.Fatalf("the secret %s has no %s", v.SecretName, i.Key)
		}
		out[i.Path] = text
	}
	return out
}

type imageConfig struct{ Entrypoint, Cmd, Env []string }

// unpack makes the root of an image anew.
func (p *pods) unpack(ref string) (root string, c imageConfig) {
	p.t.Helper()
	name, digest, _ := strings.Cut(ref, "@")
	m := p.images[name]
	if digest != string(m.Digest) {
		p.t.Fatalf("the manifest names %s, composed is %s", ref, m.Digest)
	}
	var manifest struct {
		Config store.Content
		Layers []store.Content
	}
	p.json(m, &manifest)
	var config struct{ Config imageConfig }
	p.json(manifest.Config, &config)
	root, err := os.MkdirTemp(p.dir, "root-")
	must(p.t, err)
	must(p.t, os.Chmod(root, 0o755))
	for _, l := range manifest.Layers {
		p.sh("tar", "-xpf", p.store.Path(l.Digest), "-C", root)
	}
	return root, config.Config
}

func (p *pods) json(c store.Content, v any) {
	p.t.Helper()
	b, err := p.store.ReadFile(c, 1<<20)
	must(p.t, err)
	must(p.t, json.Unmarshal(b, v))
}

// running is a container.
type running struct {
	t     *testing.T
	name  string
	cmd   *exec.Cmd
	log   string
	ended chan error
	once  bool
	with  syscall.Signal // what it is stopped with
}

// stop asks the program to end, and waits until it has.
func (r *running) stop() {
	if r.once {
		return
	}
	r.once = true
	// unshare is the child of ip; its own child is the program.
	for _, pid := range children(r.cmd.Process.Pid) {
		if err := syscall.Kill(pid, r.with); err != nil && !errors.Is(err, syscall.ESRCH) {
			r.t.Error(err)
		}
	}
	select {
	case <-r.ended:
	case <-time.After(40 * time.Second):
		r.t.Errorf("%s does not end when it is told:\n%s", r.name, r.said())
		_ = r.cmd.Process.Kill()
		<-r.ended
	}
}

// children are the processes that pid started; ip becomes unshare, so these
// are the program's.
func children(pid int) []int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	var out []int
	if err == nil {
		for _, f := range strings.Fields(string(b)) {
			var n int
			if _, err := fmt.Sscan(f, &n); err == nil {
				out = append(out, n)
			}
		}
	}
	return out
}

func (r *running) said() string {
	b, err := os.ReadFile(r.log)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// end waits for a program that ends by itself.
func (r *running) end(within time.Duration) error {
	r.t.Helper()
	select {
	case err := <-r.ended:
		r.once = true
		return err
	case <-time.After(within):
		r.t.Fatalf("%s still runs after %v:\n%s", r.name, within, r.said())
		return nil
	}
}

// until waits for what f looks at, as long as the program runs.
func (r *running) until(ctx context.Context, within time.Duration, what string, f func() bool) time.Duration {
	r.t.Helper()
	start := time.Now()
	for !f() {
		select {
		case err := <-r.ended:
			r.once = true
			r.t.Fatalf("%s ended before it was %s: %v\n%s", r.name, what, err, r.said())
		case <-ctx.Done():
			r.t.Fatal(ctx.Err())
		case <-time.After(200 * time.Millisecond):
		}
		if time.Since(start) > within {
			r.t.Fatalf("%s is not %s after %v:\n%s", r.name, what, within, r.said())
		}
	}
	return time.Since(start)
}
