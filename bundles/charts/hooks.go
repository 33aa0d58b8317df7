package charts

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"

	"holdfast.dev/holdfast/airgap/store"
)

const (
	hookAnnotation   = "helm.sh/hook"
	weightAnnotation = "helm.sh/hook-weight"
)

// annotation is one of Helm's.
func (o object) annotation(name string) string {
	a, _ := o.meta()["annotations"].(map[string]any)
	return strings.TrimSpace(text(a[name]))
}

// place puts an object where it belongs, and completes it.
func (w *rendering) place(o object) {
	w.noSecrets(o)
	w.inNamespace(o)
	var phases []string
	for h := range strings.SplitSeq(o.annotation(hookAnnotation), ",") {
		if h = strings.TrimSpace(h); h != "" {
			phases = append(phases, h)
		}
	}
	has := func(names ...string) bool {
		return slices.ContainsFunc(phases, func(p string) bool { return slices.Contains(names, p) })
	}
	for _, p := range phases {
		if !slices.Contains([]string{"pre-install", "post-install", "pre-upgrade", "post-upgrade", "pre-delete", "post-delete",
			"pre-rollback", "post-rollback", "test", "test-success", "test-failure", "crd-install"}, p) {
			w.fail(o, "a hook %q, which Helm does not know", p)
			return
		}
	}
	switch {
	case len(phases) == 0:
		w.main = append(w.main, o)
	case has("crd-install", "pre-install"):
		w.before = append(w.before, w.hook(o))
	case has("post-install"):
		w.after = append(w.after, w.hook(o))
	case has("pre-upgrade", "post-upgrade"):
		w.fail(o, "a hook for upgrades alone (%s), and the node cannot tell an upgrade from a first installation\nhint: turn it off in the values, and do what it does by hand", strings.Join(phases, ", "))
	default: // tests, and what goes with a deletion or with Helm's own way back
		w.skipped = append(w.skipped, fmt.Sprintf("%s %s (%s)", o.kind(), o.name(), strings.Join(phases, ", ")))
	}
}

// hook is o as the node runs it: a Job whose name changes with what it does, so
// that it runs again when that changes, and which stays to be seen.
func (w *rendering) hook(o object) object {
	switch o.kind() {
	case "Job":
	case "Pod":
		w.fail(o, "a hook that is a Pod; the node runs Jobs\nhint: turn it off in the values")
		return o
	default:
		return o
	}
	o.job = true
	spec, _ := o.data["spec"].(map[string]any)
	delete(spec, "ttlSecondsAfterFinished")
	b, err := yaml.Marshal(o.data)
	if err != nil {
		w.fail(o, "cannot be written: %w", err)
		return o
	}
	name := o.name()
	const suffix = 9
	o.meta()["name"] = strings.TrimRight(name[:min(len(name), 63-suffix)], "-.") + "-" + store.FromBytes(b).Hex()[:suffix-1]
	return o
}

// ordered refuses hooks that must run one after another: the node starts those
// of a stage together.
func (w *rendering) ordered() {
	for _, stage := range [][]object{w.before, w.after} {
		weights := map[int]bool{}
		for _, o := range stage {
			if !o.job {
				continue
			}
			weight, err := strconv.Atoi(orZero(o.annotation(weightAnnotation)))
			if err != nil {
				w.fail(o, "%s is %q, which is no number", weightAnnotation, o.annotation(weightAnnotation))
				continue
			}
			if weights[weight] = true; len(weights) > 1 {
				w.fail(o, "a hook that must run after another one (%s %d): the node starts those before, or after, the installation together\nhint: turn one of them off in the values", weightAnnotation, weight)
				break
			}
		}
	}
}

func orZero(s string) string {
	if s == "" {
		return "0"
	}
	return s
}

// noSecrets refuses secrets with values: they would be in the release for all
// to read.
func (w *rendering) noSecrets(o object) {
	if o.kind() != "Secret" || text(o.data["apiVersion"]) != "v1" {
		return
	}
	for _, k := range []string{"data", "stringData"} {
		if m, _ := o.data[k].(map[string]any); len(m) > 0 {
			w.fail(o, "a Secret with values, and a release holds no secrets\nhint: set the value by which the chart takes a secret that is there, and let the node make it (secrets in site.yaml)")
			return
		}
	}
}

// inNamespace puts o into the release's namespace, if its kind has any.
func (w *rendering) inNamespace(o object) {
	version, kind := text(o.data["apiVersion"]), o.kind()
	known, namespaced := builtinKind(version, kind)
	if !known {
		for _, d := range w.defined() {
			if d.APIVersion == version && d.Kind == kind {
				known, namespaced = true, d.Namespaced
			}
		}
	}
	if !known && (slices.Contains(w.release.APIVersions, version) || slices.Contains(w.release.APIVersions, version+"/"+kind)) {
		known, namespaced = true, true // as most are; of others the API server drops it
	}
	if !known {
		w.fail(o, "%s is not served by Kubernetes %s, and nothing in the release defines it\nhint: turn it off in the values, or bring its definition; what an operator defines at run time goes under apiVersions", version, w.release.Kubernetes)
		return
	}
	switch at := text(o.meta()["namespace"]); {
	case namespaced && at == "":
		o.meta()["namespace"] = w.release.Namespace
	case !namespaced && at != "":
		delete(o.meta(), "namespace")
	}
}

func (w *rendering) defined() []Definition { return slices.Concat(w.release.Defined, w.defines) }

// stage writes objects, one file for each template.
func (w *rendering) stage(objects []object) Stage {
	var out Stage
	for _, o := range objects {
		b, err := yaml.Marshal(o.data)
		if err != nil {
			w.fail(o, "cannot be written: %w", err)
			continue
		}
		i := slices.IndexFunc(out.Files, func(f File) bool { return f.Name == o.file })
		if i < 0 {
			i = len(out.Files)
			out.Files = append(out.Files, File{Name: o.file})
		}
		out.Files[i].Data = append(append(out.Files[i].Data, "---\n"...), b...)
		if o.job || slices.Contains([]string{"Deployment", "StatefulSet", "DaemonSet"}, o.kind()) && text(o.data["apiVersion"]) == "apps/v1" {
			out.Ready = append(out.Ready, Object{o.kind(), text(o.meta()["namespace"]), o.name()})
		}
	}
	return out
}
