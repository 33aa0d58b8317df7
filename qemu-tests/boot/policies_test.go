package boot_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// clients are a user's pod, and one of a component of the platform; busybox is
// in every release.
const clients = `
apiVersion: v1
kind: Namespace
metadata: {name: user}
---
apiVersion: v1
kind: Namespace
metadata: {name: component, labels: {holdfast.dev/platform: "true"}}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: user}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - {name: client, image: "docker.io/library/busybox:1.37.0", imagePullPolicy: IfNotPresent, command: [/usr/bin/busybox, sleep, "86400"]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: component}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - {name: client, image: "docker.io/library/busybox:1.37.0", imagePullPolicy: IfNotPresent, command: [/usr/bin/busybox, sleep, "86400"]}
`

const noEgress = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: no-egress, namespace: component}
spec: {podSelector: {}, policyTypes: [Egress]}
`

// policiesHold reaches for the database from where its policies allow it and
// from where they do not, and finds the refusal in the kernel's log.
func policiesHold(t *testing.T, site string) {
	apply := func(name, yaml string) {
		t.Helper()
		file := filepath.Join(t.TempDir(), name)
		must(t, os.WriteFile(file, []byte(yaml), 0o644))
		run(t, site, "lab", "kubectl", "apply", "-f", file)
	}
	apply("clients.yaml", clients)
	defer run(t, site, "lab", "kubectl", "delete", "namespace", "user", "component")
	for _, ns := range []string{"user", "component"} {
		run(t, site, "lab", "kubectl", "wait", "--for=condition=Ready", "pod/client", "-n", ns, "--timeout=15m")
	}
	database := run(t, site, "lab", "kubectl", "get", "service", "-n", "postgresql", "postgresql", "-o", "jsonpath={.spec.clusterIP}").stdout
	reach := func(ns string) (string, bool) {
		p, err := try(t, site, "lab", "kubectl", "exec", "-n", ns, "client", "--", "/usr/bin/busybox", "nc", "-w", "10", database, "5432")
		return p.both, err == nil
	}
	if said, ok := reach("component"); !ok {
		t.Errorf("a component does not reach the database: %s", said)
	}
	if said, ok := reach("user"); ok || !strings.Contains(said, "refused") {
		t.Errorf("a user's pod is not refused by the database: %s", said)
	}
	names := run(t, site, "lab", "kubectl", "exec", "-n", "user", "client", "--",
		"/usr/bin/busybox", "nslookup", "-type=a", "postgresql.postgresql.svc.cluster.local", "10.96.0.10").stdout
	if !strings.Contains(names, database) {
		t.Errorf("a user's pod does not find the database's address: %s", names)
	}
	p, err := try(t, site, "lab", "kubectl", "exec", "-n", "postgresql", "postgresql-0", "--", "psql", "-h", "10.96.0.1", "-p", "443", "-c", "")
	if err == nil || !strings.Contains(p.both, "refused") {
		t.Errorf("the database's pod is not refused by the API server: %s", p.both)
	}

	apply("no-egress.yaml", noEgress)
	cut := false
	for start := time.Now(); !cut && time.Since(start) < 30*time.Second; {
		_, ok := reach("component")
		cut = !ok
	}
	if !cut {
		t.Error("a new policy is not in force after half a minute")
	}

	log := run(t, site, "lab", "kubectl", "run", "refused", "-n", "user", "--image=docker.io/library/busybox:1.37.0",
		"--privileged", "--restart=Never", "--pod-running-timeout=15m", "--attach", "--rm", "--quiet", "--command", "--", "/usr/bin/busybox", "dmesg").stdout
	for _, line := range []string{"holdfast: refused to postgresql/postgresql-0: ", "holdfast: refused from postgresql/postgresql-0: ", "holdfast: refused from component/client: "} {
		if !strings.Contains(log, line) {
			t.Errorf("the kernel's log does not say %q", line)
		}
	}
}
