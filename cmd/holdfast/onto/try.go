package onto

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/apply"
)

// defines are the kinds that the release brings the definitions of.
func (p *Plan) defines() map[schema.GroupKind]bool {
	out := map[schema.GroupKind]bool{}
	p.objects(func(_ apply.Component, o *unstructured.Unstructured) {
		if o.GetKind() == "CustomResourceDefinition" {
			group, _, _ := unstructured.NestedString(o.Object, "spec", "group")
			kind, _, _ := unstructured.NestedString(o.Object, "spec", "names", "kind")
			out[schema.GroupKind{Group: group, Kind: kind}] = true
		}
	})
	return out
}

// kinds refuses objects that nothing in the cluster would serve.
func (p *Plan) kinds(ctx context.Context) error {
	var errs []error
	seen, defined := map[schema.GroupVersionKind]bool{}, p.defines()
	p.objects(func(_ apply.Component, o *unstructured.Unstructured) {
		gvk := o.GroupVersionKind()
		if seen[gvk] || ctx.Err() != nil {
			return
		}
		seen[gvk] = true
		_, _, err := p.cluster.Plural(gvk)
		switch {
		case err == nil, meta.IsNoMatchError(err) && defined[gvk.GroupKind()]:
		case meta.IsNoMatchError(err):
			errs = append(errs, fmt.Errorf("%s: the cluster (%s) serves no %s of %s\nhint: its definition must be in the release or in the cluster", apply.Line(o), p.Version, gvk.Kind, gvk.GroupVersion()))
		default:
			errs = append(errs, fmt.Errorf("cannot tell whether the cluster serves %s: %w", gvk, err))
		}
	})
	return errors.Join(append(errs, ctx.Err())...)
}

// right is something that the user must be allowed to do.
type right struct{ verb, group, resource, sub, namespace string }

func (r right) String() string {
	name := r.resource
	if r.sub != "" {
		name += "/" + r.sub
	}
	if r.group != "" {
		name += "." + r.group
	}
	if r.namespace != "" {
		name += " in namespace " + r.namespace
	}
	return r.verb + " " + name
}

// needs are the rights that applying and following what becomes of it takes.
func (p *Plan) needs() []right {
	var out []right
	add := func(group, resource, sub, namespace string, verbs ...string) {
		for _, v := range verbs {
			if r := (right{v, group, resource, sub, namespace}); !slices.Contains(out, r) {
				out = append(out, r)
			}
		}
	}
	all := []string{"get", "create", "patch"}
	add("", "namespaces", "", "", all...)
	add("", "configmaps", "", Namespace, append(all, "list", "delete")...)
	add("", "secrets", "", Namespace, all...)
	add("", "services", "", Namespace, all...)
	add("", "services", "proxy", Namespace, "create", "update")
	add("", "persistentvolumeclaims", "", Namespace, all...)
	add("apps", "statefulsets", "", Namespace, all...)
	add("apps", "daemonsets", "", Namespace, all...)
	add("", "pods", "", Namespace, "list")
	p.objects(func(_ apply.Component, o *unstructured.Unstructured) {
		gvr, namespaced, err := p.cluster.Plural(o.GroupVersionKind())
		if err != nil {
			return // told by kinds, or defined by the release
		}
		ns := ""
		if namespaced {
			ns = namespaceOf(o)
		}
		add(gvr.Group, gvr.Resource, "", ns, append(all, "delete")...)
	})
	for _, c := range p.components {
		for _, s := range c.Secrets {
			add("", "secrets", "", s.Namespace, all...)
		}
		for _, r := range c.Ready {
			add("", "pods", "", r.Namespace, "list")
		}
	}
	return out
}

func namespaceOf(o *unstructured.Unstructured) string {
	if ns := o.GetNamespace(); ns != "" {
		return ns
	}
	return metav1.NamespaceDefault
}

// rights refuses a user who may too little, and says all of it.
func (p *Plan) rights(ctx context.Context) error {
	r, err := p.cluster.Of(schema.GroupVersionKind{Group: "authorization.k8s.io", Version: "v1", Kind: "SelfSubjectAccessReview"}, "")
	if err != nil {
		return fmt.Errorf("cannot ask what the user may do: %w", err)
	}
	may := func(x right) (bool, error) {
		o, err := r.Create(ctx, &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
			"spec": map[string]any{"resourceAttributes": map[string]any{
				"verb": x.verb, "group": x.group, "resource": x.resource, "subresource": x.sub, "namespace": x.namespace}},
		}}, metav1.CreateOptions{})
		if err != nil {
			return false, fmt.Errorf("cannot ask what the user may do: %w", err)
		}
		ok, _, err := unstructured.NestedBool(o.Object, "status", "allowed")
		return ok, err
	}
	if all, err := may(right{"*", "*", "*", "", ""}); err != nil || all {
		return err
	}
	var lacks []string
	for _, x := range p.needs() {
		ok, err := may(x)
		if err != nil {
			return err
		}
		if !ok {
			lacks = append(lacks, x.String())
		}
	}
	if len(lacks) == 0 {
		return nil
	}
	return fmt.Errorf("the user may not: %s\nhint: a kubeconfig of a user with the role cluster-admin, or with these rights", strings.Join(lacks, "; "))
}

// tryAll has the API server say what becomes of each object. What it cannot be
// asked about, as something before is not there yet, is told as such.
func (p *Plan) tryAll(ctx context.Context, _ look) error {
	var errs []error
	missing := map[string]bool{} // namespaces
	made := p.namespaces()
	look := func(ns string) {
		if _, ok := missing[ns]; ok {
			return
		}
		var n corev1.Namespace
		err := p.cluster.Get(ctx, corev1.SchemeGroupVersion.WithKind("Namespace"), "", ns, &n)
		missing[ns] = apierrors.IsNotFound(err)
		switch {
		case err == nil, missing[ns] && slices.Contains(made, ns):
		case missing[ns]:
			errs = append(errs, fmt.Errorf("there is no namespace %s, and nothing in the release makes it\nhint: add it to the site's manifests", ns))
		default:
			errs = append(errs, err)
		}
	}
	for _, c := range p.components {
		for _, s := range c.Secrets {
			look(s.Namespace)
			change := apply.Unchanged
			have, there, err := p.values(ctx, s.Namespace, s.Name)
			errs = append(errs, err)
			for k := range s.Generate {
				if _, ok := have[k]; !ok {
					change = apply.Changed
				}
			}
			if !there {
				change = apply.Created
			}
			p.Objects = append(p.Objects, Object{Component: c.Name, Object: strings.Join([]string{"v1", "Secret", s.Namespace, s.Name}, " "), Change: change})
		}
		for _, o := range c.Objects {
			x := Object{Component: c.Name, Object: apply.Line(o), Change: apply.Created}
			if o.GetAnnotations()[apply.When] != "" && o.GetAnnotations()[apply.When] != apply.Confirmed {
				continue // dumps and restores are of updates on a node
			}
			_, namespaced, err := p.cluster.Plural(o.GroupVersionKind())
			if err != nil {
				x.Unasked = "its definition comes with the release"
			} else if namespaced {
				if look(namespaceOf(o)); missing[namespaceOf(o)] {
					x.Unasked = "its namespace comes with the release"
				}
			}
			if x.Unasked == "" {
				x.Change, err = p.cluster.Try(ctx, o)
				switch {
				case apierrors.IsConflict(err):
					errs = append(errs, fmt.Errorf("%w\nhint: somebody else sets these fields; --take-over takes them", err))
				case err != nil:
					errs = append(errs, err)
				}
			}
			p.Objects = append(p.Objects, x)
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
	}
	return errors.Join(errs...)
}
