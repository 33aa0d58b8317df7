package onto

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"text/template"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/apply"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/node"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/secrets"
	"holdfast.dev/holdfast/cmd/holdfast/onto/joiner"
)

//go:embed registry.yaml.txt
var registryYAML string

var registryObjects = template.Must(template.New("registry").Parse(registryYAML))

const (
	// A ConfigMap holds at most 1 MiB.
	partSize     = 1_000_000
	tokensSecret = "registry-tokens"
	programLabel = "holdfast.dev/program"
	tokenLength  = 40
)

var (
	configMaps = corev1.SchemeGroupVersion.WithKind("ConfigMap")
	secretsGVK = corev1.SchemeGroupVersion.WithKind("Secret")
	claims     = corev1.SchemeGroupVersion.WithKind("PersistentVolumeClaim")
	services   = corev1.SchemeGroupVersion.WithKind("Service")
)

// program is holdfast-registry in pieces, and what joins them, under names that
// other bytes do not have.
type program struct {
	id    string
	parts [][]byte // the joiner first
}

func programOf(registry []byte) program {
	p := program{parts: [][]byte{joiner.ELF()}}
	for b := range slices.Chunk(registry, partSize) {
		p.parts = append(p.parts, b)
	}
	p.id = store.FromBytes(slices.Concat(p.parts...)).Hex()[:12]
	return p
}

func (p program) configMap(i int) string { return fmt.Sprintf("program-%s-%02d", p.id, i) }

func (p program) key(i int) string {
	if i == 0 {
		return "joiner"
	}
	return fmt.Sprintf("part-%02d", i)
}

// join is the command up to its "--", and sources what is mounted for it.
func (p program) join() (command, sources string, err error) {
	type m = map[string]any
	args, from := []string{"/program/joiner", "holdfast-registry"}, []m{}
	for i := range p.parts {
		from = append(from, m{"configMap": m{"name": p.configMap(i), "items": []m{{"key": p.key(i), "path": p.key(i)}}}})
		if i > 0 {
			args = append(args, "/program/"+p.key(i))
		}
	}
	c, err1 := json.Marshal(args)
	s, err2 := json.Marshal(from)
	return string(c), string(s), errors.Join(err1, err2)
}

// bring has the registry run in the cluster.
func (p Plan) bring(ctx context.Context) (note string, err error) {
	ours, err := apply.Guest(p.options.Cluster, apply.Terms{Manager: Manager, Namespace: Namespace, Force: true})
	if err != nil {
		return "", err
	}
	prog := programOf(p.options.Program)
	objects, err := p.registryObjects(prog, "http://unknown:5000")
	if err != nil {
		return "", err
	}
	apply1 := func(kind string) error {
		i := slices.IndexFunc(objects, func(o *unstructured.Unstructured) bool { return o.GetKind() == kind })
		return ours.Apply(ctx, objects[i])
	}
	if err := apply1("Namespace"); err != nil {
		return "", err
	}
	if err := errors.Join(p.makeProgram(ctx, prog), p.makeTokens(ctx), p.makeClaim(ctx, objects)); err != nil {
		return "", err
	}
	if err := errors.Join(apply1("Service"), apply1("StatefulSet")); err != nil {
		return "", err
	}
	if err := p.await(ctx, node.Ready{Kind: "StatefulSet", Namespace: Namespace, Name: "registry"}); err != nil {
		return "", err
	}
	// The nodes' own resolver does not know the cluster's names.
	var s corev1.Service
	if err := p.cluster.Get(ctx, services, Namespace, "registry", &s); err != nil {
		return "", fmt.Errorf("cannot find the registry's address: %w", err)
	}
	if objects, err = p.registryObjects(prog, "http://"+net.JoinHostPort(s.Spec.ClusterIP, "5000")); err != nil {
		return "", err
	}
	if err := apply1("DaemonSet"); err != nil {
		return "", err
	}
	return fmt.Sprintf("at 127.0.0.1:%d of each node", p.Registry.Port), p.await(ctx, node.Ready{Kind: "DaemonSet", Namespace: Namespace, Name: "forward"})
}

func (p Plan) registryObjects(prog program, to string) ([]*unstructured.Unstructured, error) {
	join, sources, err := prog.join()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = registryObjects.Execute(&b, map[string]any{
		"Namespace": Namespace, "Image": p.Registry.Image, "Port": p.Registry.Port, "StorageClass": p.options.StorageClass, "GiB": p.Registry.GiB,
		"Join": join, "Sources": sources, "Tokens": tokensSecret, "To": to,
	})
	if err != nil {
		return nil, fmt.Errorf("internal error: %w", err)
	}
	return apply.Parse(b.Bytes())
}

// makeProgram makes the ConfigMaps of the program that are not there.
func (p Plan) makeProgram(ctx context.Context, prog program) error {
	there, err := p.programs(ctx)
	if err != nil {
		return err
	}
	for i, part := range prog.parts {
		if _, ok := there[prog.configMap(i)]; ok {
			continue
		}
		immutable := true
		err := p.create(ctx, configMaps, &corev1.ConfigMap{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
			ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: prog.configMap(i), Labels: map[string]string{programLabel: prog.id}},
			BinaryData: map[string][]byte{prog.key(i): part}, Immutable: &immutable,
		})
		if err != nil {
			return fmt.Errorf("cannot bring the registry's program: %w", err)
		}
	}
	return nil
}

// programs are the ConfigMaps of programs by name, with whose they are; without
// their data, which is megabytes.
func (p Plan) programs(ctx context.Context) (map[string]string, error) {
	l, err := p.metadata(ctx, corev1.SchemeGroupVersion.WithResource("configmaps"), programLabel)
	if err != nil {
		return nil, fmt.Errorf("cannot look for the registry's program: %w", err)
	}
	out := map[string]string{}
	for _, o := range l {
		out[o.Name] = o.Labels[programLabel]
	}
	return out, nil
}

// sweepPrograms removes those of other holdfasts, once no pod needs them.
func (p Plan) sweepPrograms(ctx context.Context) error {
	there, err := p.programs(ctx)
	var errs []error
	id := programOf(p.options.Program).id
	for name, of := range there {
		if of != id {
			errs = append(errs, p.cluster.Delete(ctx, strings.Join([]string{"v1", "ConfigMap", Namespace, name}, " ")))
		}
	}
	return errors.Join(append(errs, err)...)
}

func (p Plan) makeTokens(ctx context.Context) error {
	read, err1 := secrets.Password(tokenLength, p.options.Random)
	write, err2 := secrets.Password(tokenLength, p.options.Random)
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("cannot make the registry's tokens: %w", err)
	}
	err := p.create(ctx, secretsGVK, &corev1.Secret{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: tokensSecret},
		Data:       map[string][]byte{"read": []byte(read), "write": []byte(write)},
	})
	if err != nil {
		return fmt.Errorf("cannot make the registry's tokens: %w", err)
	}
	return nil
}

// makeClaim makes the claim of the store if it is not there: most of it can
// never be changed.
func (p Plan) makeClaim(ctx context.Context, objects []*unstructured.Unstructured) error {
	for _, o := range objects {
		if o.GetKind() == claims.Kind {
			if err := p.create(ctx, claims, o); err != nil {
				return fmt.Errorf("cannot claim a volume for the registry: %w", err)
			}
		}
	}
	return nil
}

// create makes an object; one that is there is left as it is.
func (p Plan) create(ctx context.Context, gvk schema.GroupVersionKind, o any) error {
	u, err := toUnstructured(o)
	if err != nil {
		return err
	}
	r, err := p.cluster.Of(gvk, Namespace)
	if err != nil {
		return err
	}
	_, err = r.Create(ctx, u, metav1.CreateOptions{FieldManager: Manager})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// await waits until a workload of the registry is rolled out, or ctx ends.
func (p Plan) await(ctx context.Context, r node.Ready) error {
	said := ""
	for {
		reason, err := p.cluster.Unready(ctx, r)
		if err != nil {
			reason = err.Error()
		}
		if reason == "" {
			return nil
		}
		if reason != said && p.options.Report.Wait != nil {
			p.options.Report.Wait(reason)
		}
		said = reason
		if err := p.options.Sleep(ctx, lookEvery); err != nil {
			hint := ""
			if strings.Contains(reason, "ErrImageNeverPull") {
				hint = "\nhint: --image names one that is on every node"
			}
			return fmt.Errorf("the registry does not start: %w: %s%s", err, reason, hint)
		}
	}
}
