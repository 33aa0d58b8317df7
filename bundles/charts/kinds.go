package charts

import (
	"slices"
	"strings"

	"helm.sh/helm/v4/pkg/chart/common"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"sigs.k8s.io/yaml"
)

// builtin are the kinds that Kubernetes 1.36 serves with its defaults, by group
// and version; cluster-wide ones end in "*".
var builtin = map[string]string{
	"v1": "Binding ConfigMap Endpoints Event LimitRange Namespace* Node* PersistentVolume* PersistentVolumeClaim Pod PodTemplate " +
		"ReplicationController ResourceQuota Secret Service ServiceAccount",
	"admissionregistration.k8s.io/v1": "MutatingWebhookConfiguration* ValidatingWebhookConfiguration* ValidatingAdmissionPolicy* " +
		"ValidatingAdmissionPolicyBinding* MutatingAdmissionPolicy* MutatingAdmissionPolicyBinding*",
	"apiextensions.k8s.io/v1":         "CustomResourceDefinition*",
	"apiregistration.k8s.io/v1":       "APIService*",
	"apps/v1":                         "ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet",
	"authentication.k8s.io/v1":        "TokenReview* SelfSubjectReview*",
	"authorization.k8s.io/v1":         "LocalSubjectAccessReview SelfSubjectAccessReview* SelfSubjectRulesReview* SubjectAccessReview*",
	"autoscaling/v1":                  "HorizontalPodAutoscaler",
	"autoscaling/v2":                  "HorizontalPodAutoscaler",
	"batch/v1":                        "CronJob Job",
	"certificates.k8s.io/v1":          "CertificateSigningRequest*",
	"coordination.k8s.io/v1":          "Lease",
	"discovery.k8s.io/v1":             "EndpointSlice",
	"events.k8s.io/v1":                "Event",
	"flowcontrol.apiserver.k8s.io/v1": "FlowSchema* PriorityLevelConfiguration*",
	"networking.k8s.io/v1":            "Ingress IngressClass* IPAddress* NetworkPolicy ServiceCIDR*",
	"node.k8s.io/v1":                  "RuntimeClass*",
	"policy/v1":                       "PodDisruptionBudget",
	"rbac.authorization.k8s.io/v1":    "ClusterRole* ClusterRoleBinding* Role RoleBinding",
	"resource.k8s.io/v1":              "DeviceClass* ResourceClaim ResourceClaimTemplate ResourceSlice*",
	"scheduling.k8s.io/v1":            "PriorityClass*",
	"storage.k8s.io/v1":               "CSIDriver* CSINode* CSIStorageCapacity StorageClass* VolumeAttachment* VolumeAttributesClass*",
}

// builtinKind says whether Kubernetes serves a kind, and whether its objects
// are in namespaces.
func builtinKind(apiVersion, kind string) (served, namespaced bool) {
	for k := range strings.FieldsSeq(builtin[apiVersion]) {
		if name, wide := strings.CutSuffix(k, "*"); name == kind {
			return true, !wide
		}
	}
	return false, false
}

// served is what templates are told that the cluster has.
func served(r Release, c *chart.Chart) common.VersionSet {
	var out common.VersionSet
	for version, kinds := range builtin {
		out = append(out, version)
		for k := range strings.FieldsSeq(kinds) {
			out = append(out, version+"/"+strings.TrimSuffix(k, "*"))
		}
	}
	out = append(out, r.APIVersions...)
	for _, d := range r.Defined {
		out = append(out, d.APIVersion, d.APIVersion+"/"+d.Kind)
	}
	for _, f := range c.CRDObjects() {
		for _, doc := range documents(string(f.File.Data)) {
			var o map[string]any
			if yaml.Unmarshal([]byte(doc), &o) == nil {
				for _, d := range Definitions(o) {
					out = append(out, d.APIVersion, d.APIVersion+"/"+d.Kind)
				}
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Definition is a version of a kind that an object of the release defines.
type Definition struct {
	APIVersion, Kind string
	Namespaced       bool
}

// Definitions are those of a CustomResourceDefinition; none of another object.
func Definitions(o map[string]any) []Definition {
	if o["kind"] != "CustomResourceDefinition" {
		return nil
	}
	spec, _ := o["spec"].(map[string]any)
	names, _ := spec["names"].(map[string]any)
	kind, _ := names["kind"].(string)
	group, _ := spec["group"].(string)
	versions, _ := spec["versions"].([]any)
	var out []Definition
	for _, v := range versions {
		version, _ := v.(map[string]any)
		name, _ := version["name"].(string)
		if name != "" && kind != "" && group != "" && version["served"] != false {
			out = append(out, Definition{group + "/" + name, kind, spec["scope"] != "Cluster"})
		}
	}
	return out
}
