package catalog

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"holdfast.dev/holdfast/airgap/store"
)

// steps are the files that Render returns, in order of application, and the
// kinds in each; a kind that none of them lists goes into the custom ones,
// hooks into theirs.
var steps = []struct {
	name  string
	kinds []string
}{
	{"10-namespaces.yaml", []string{"Namespace"}},
	{"20-definitions.yaml", []string{"CustomResourceDefinition", "PriorityClass", "RuntimeClass", "StorageClass"}},
	{"30-access.yaml", []string{"ServiceAccount", "Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"}},
	{"40-config.yaml", []string{"ConfigMap", "Secret", "NetworkPolicy", "ResourceQuota", "LimitRange", "PodDisruptionBudget",
		"PersistentVolume", "PersistentVolumeClaim", "Service", "Ingress", "IngressClass"}},
	{"45-hooks.yaml", nil},
	{"50-workloads.yaml", []string{"Pod", "Deployment", "DaemonSet", "StatefulSet", "ReplicaSet", "Job", "CronJob"}},
	{"60-custom.yaml", nil},
	{"70-admission.yaml", []string{"APIService", "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration",
		"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}},
}

const hookStep, customStep = 4, 6

// step is the index in steps of an object, and where it stands within the step.
func step(o object) (int, int) {
	if o.hook {
		return hookStep, 0
	}
	for i, s := range steps {
		if j := slices.Index(s.kinds, o.kind); j >= 0 {
			return i, j
		}
	}
	return customStep, 0
}

// files writes the objects in order: by step, kind, namespace and name.
func files(objects []object) []File {
	slices.SortFunc(objects, func(a, b object) int {
		si, sj := step(a)
		ti, tj := step(b)
		if si != ti {
			return si - ti
		}
		if sj != tj {
			return sj - tj
		}
		return strings.Compare(a.key(), b.key())
	})
	var out []File
	var at bytes.Buffer
	for i, o := range objects {
		at.WriteString("---\n")
		at.Write(o.yaml)
		s, _ := step(o)
		last := i == len(objects)-1
		if !last {
			next, _ := step(objects[i+1])
			last = next != s
		}
		if last {
			out = append(out, File{steps[s].name, bytes.Clone(at.Bytes())})
			at.Reset()
		}
	}
	return out
}

func duplicates(component string, objects []object) []error {
	var errs []error
	seen := map[string]bool{}
	for _, o := range objects {
		if seen[o.key()] {
			errs = append(errs, fmt.Errorf("cannot render %s: %s is there twice", component, o.key()))
		}
		seen[o.key()] = true
	}
	return errs
}

// placeholders stand for the digests of all images, to check that manifests
// use no others.
func placeholders(all []Component) map[string]store.Digest {
	m := map[string]store.Digest{}
	for _, c := range all {
		for _, im := range c.Images {
			m[im.Name] = store.FromBytes(nil)
		}
	}
	return m
}
