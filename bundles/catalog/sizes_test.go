package catalog

import (
	"strings"
	"testing"
)

// Every size of every component is of objects that there are, and changes them.
func TestSizes(t *testing.T) {
	all, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	sized := 0
	for _, size := range Sizes() {
		of, err := Sized(all, size)
		if err != nil {
			t.Error(err)
			continue
		}
		for i, c := range of {
			if size == Small && len(c.Sizes[Small].Data) > 0 {
				t.Errorf("%s has manifests for the size that it has", c.Name)
			}
			before, err := Read(all[i])
			if err != nil {
				t.Fatal(err)
			}
			after, err := Read(c)
			if err != nil {
				t.Fatalf("%s %s: %v", size, c.Name, err)
			}
			if len(before) != len(after) {
				t.Errorf("%s %s: %d objects of %d", size, c.Name, len(after), len(before))
			}
			same := true
			for j, f := range c.Manifests {
				same = same && string(f.Data) == string(all[i].Manifests[j].Data)
			}
			if _, ok := c.Sizes[size]; ok == same {
				t.Errorf("%s %s: a file for it %t, changed %t", size, c.Name, ok, !same)
			} else if ok {
				sized++
			}
		}
	}
	if sized == 0 {
		t.Error("no component has another size")
	}
}

func TestPatched(t *testing.T) {
	const base = `apiVersion: v1
kind: Service
metadata: {name: db, namespace: db}
---
# Keeps rows.
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: db}
spec:
  serviceName: db
  template:
    spec:
      containers:
        - name: db
          image: registry.example/db:1
          args: [--a=1, --b=2]
          env:
            - {name: LIMIT, value: small}
            - {name: OTHER, value: stays}
          resources:
            requests: {cpu: 10m, memory: 64Mi}
            limits: {memory: 128Mi}
        - {name: beside, image: registry.example/beside:1}
`
	files, err := patched([]File{{"db/manifests/db.yaml", []byte(base)}}, File{"db/sizes/large.yaml", []byte(`apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: db}
spec:
  template:
    spec:
      containers:
        - name: db
          args: [--a=9]
          env:
            - {name: LIMIT, value: large}
          resources:
            limits: {memory: 1Gi}
`)})
	if err != nil {
		t.Fatal(err)
	}
	text := string(files[0].Data)
	for _, want := range []string{"kind: Service", "# Keeps rows.", "image: registry.example/db:1", "--a=9", "value: large", "value: stays", "memory: 1Gi", "memory: 64Mi", "cpu: 10m", "name: beside", "serviceName: db"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	for _, gone := range []string{"--b=2", "value: small", "128Mi"} {
		if strings.Contains(text, gone) {
			t.Errorf("%q is in\n%s", gone, text)
		}
	}
	for name, patch := range map[string]string{
		"there is no apps/v1 StatefulSet db/other": "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: other, namespace: db}\nspec: {template: {spec: {containers: [{name: db}]}}}\n",
		"spec has replicas":                        "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: db, namespace: db}\nspec: {replicas: 2, template: {spec: {containers: [{name: db}]}}}\n",
		"a container has image":                    "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: db, namespace: db}\nspec: {template: {spec: {containers: [{name: db, image: other}]}}}\n",
		"it has no spec":                           "apiVersion: v1\nkind: Service\nmetadata: {name: db, namespace: db}\n",
		"it has data":                              "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: db, namespace: db}\ndata: {a: b}\n",
	} {
		if _, err := patched([]File{{"db/manifests/db.yaml", []byte(base)}}, File{"db/sizes/large.yaml", []byte(patch)}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("want %q, got %v", name, err)
		}
	}
}
