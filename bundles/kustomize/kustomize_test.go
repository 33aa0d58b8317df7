package kustomize

import (
	"strings"
	"testing"
	"testing/fstest"
)

func tree(files map[string]string) fstest.MapFS {
	m := fstest.MapFS{}
	for name, text := range files {
		m[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return m
}

const pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a, image: a.example/a:1}]}\n"

// An overlay over a base beside it, with a patch and a generated ConfigMap, by
// nothing but the files that it names.
func TestRender(t *testing.T) {
	s, err := Load(tree(map[string]string{
		"kustomize/base/kustomization.yaml": "resources: [pod.yaml]\n",
		"kustomize/base/pod.yaml":           pod,
		"kustomize/site/kustomization.yaml": "namespace: web\nresources: [../base]\npatches:\n- path: patch.yaml\nconfigMapGenerator:\n- name: conf\n  files: [a.conf]\n  literals: [\"u=https://example.org\"]\nimages: [{name: a.example/a, newTag: \"2\"}]\n",
		"kustomize/site/patch.yaml":         "apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: {x: y}}\n",
		"kustomize/site/a.conf":             "hello\n",
		"kustomize/site/other.yaml":         "not read",
	}), "kustomize/site")
	if err != nil || len(s.Files) != 5 {
		t.Fatalf("%d files, %v", len(s.Files), err)
	}
	out, err := s.Render()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"image: a.example/a:2", "namespace: web", "x: \"y\"", "name: conf-", "u: https://example.org"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

func TestRefused(t *testing.T) {
	for text, want := range map[string]string{
		"resources: [\"https://example.org/a.yaml\"]":                    `k/kustomization.yaml: "https://example.org/a.yaml" lies elsewhere, and build fetches nothing`,
		"resources: [github.com/a/b]":                                    "lies elsewhere",
		"resources: [\"git@example.org:a/b\"]":                           "lies elsewhere",
		"resources: [\"HTTPS://example.org/a?ref=x\"]":                   "lies elsewhere",
		"components: [\"ssh://example.org/a\"]":                          "lies elsewhere",
		"bases: [\"git::https://example.org/a\"]":                        "lies elsewhere",
		"patches: [{path: \"https://example.org/a.yaml\"}]":              "lies elsewhere",
		"crds: [\"https://example.org/a.yaml\"]":                         "lies elsewhere",
		"openapi: {path: \"https://example.org/a.yaml\"}":                "lies elsewhere",
		"replacements: [{path: \"https://example.org/a.yaml\"}]":         "lies elsewhere",
		"configurations: [\"https://example.org/a.yaml\"]":               "lies elsewhere",
		"configMapGenerator: [{name: a, files: [\"x=https://e.org/\"]}]": "lies elsewhere",
		"configMapGenerator: [{name: a, envs: [\"https://e.org/\"]}]":    "lies elsewhere",
		"resources: [../../outside]":                                     "leads out of the site's directory",
		"resources: [/etc/passwd]":                                       "leads out of the site's directory",
		"resources: [gone.yaml]":                                         `k/kustomization.yaml: "gone.yaml": `,
		"resources: [../k]":                                              "it refers to itself",
		"resources: [../empty]":                                          "want one file kustomization.yaml in it, found 0",
		"helmCharts: [{name: a}]":                                        "helmCharts runs the program helm",
		"generators: [a.yaml]":                                           "generators may run programs",
		"transformers: [a.yaml]":                                         "transformers may run programs",
		"secretGenerator: [{name: a, literals: [a=b]}]":                  "secretGenerator puts secrets into the release",
		"resource: [a.yaml]":                                             "unknown field",
		"resources: []":                                                  "", // by kustomize
	} {
		s, err := Load(tree(map[string]string{"k/kustomization.yaml": text + "\n", "k/a.yaml": pod, "empty/x": ""}), "k")
		if err == nil {
			_, err = s.Render()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: want %q, got %v", text, want, err)
		}
	}
}
