package boot_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast.dev/holdfast/qemu-tests/lab"
)

// updates takes the site to a release whose Keycloak is another one, and towards
// one that has too little time to get healthy; neither takes a reboot. Keycloak's
// data are kept before each, and are what they were after the way back. Users'
// ingress is closed while a release is on trial. After each, still looks for what
// was there before.
func (o others) updates(t *testing.T, still func(*testing.T)) {
	vm, err := lab.Open(filepath.Join(o.site, "out", "lab"))
	must(t, err)
	r, _ := result(t, o.site)
	u := &updating{o.site, vm, uint64(r.Release)}
	o.page(t)
	const keeps, opens = "update: keeping the data of keycloak", "users' ingress is open again"
	says := func(from int, want string) {
		t.Helper()
		if c := console(t, vm)[from:]; !strings.Contains(c, want) {
			t.Errorf("the console does not say %q:\n%s", want, lastOf(c))
		}
	}

	said, seen := len(console(t, vm)), o.watch(t)
	u.goodUpdate(t, forge(t, o.site, "newer", u.running+1, func(f *forgery) { f.manifests = otherKeycloak("newer") }), u.running+1)
	o.closed(t, seen())
	says(said, keeps)
	says(said, opens)
	o.pageIsThere(t)
	still(t)

	said, seen = len(console(t, vm)), o.watch(t)
	ctx, stop := context.WithCancel(t.Context())
	changed := make(chan error, 1)
	go func() { changed <- o.changeInTrial(ctx, t, vm, said) }()
	u.badUpdate(t, forge(t, o.site, "hasty", u.running+1, func(f *forgery) {
		f.manifests = otherKeycloak("hasty")
		f.node["updates"] = map[string]any{"healthyWithin": 1}
	}), u.running+1, "not healthy within")
	stop()
	must(t, <-changed)
	o.closed(t, seen())
	says(said, keeps)
	says(said, "component keycloak: its data are what they were")
	if got, want := strings.TrimSpace(run(t, o.site, psqlArgs("keycloak", "select email from user_entity where username = 'audit'")...).stdout), "audit@"+o.domain; got != want {
		t.Errorf("what was changed in the trial is %q after the way back, not %q", got, want)
	}
	o.pageIsThere(t)
	still(t)
}

// otherKeycloak gives Keycloak's pods an annotation, so that they are made anew.
// Jobs keep theirs: they have another name where they are another.
func otherKeycloak(word string) func(component, text string) string {
	return func(component, text string) string {
		if component != "keycloak" {
			return text
		}
		const metadata = "  template:\n    metadata:\n"
		docs := strings.Split(text, "\n---\n")
		for i, d := range docs {
			if strings.Contains("\n"+d, "\nkind: Deployment\n") {
				docs[i] = strings.Replace(d, metadata, metadata+"      annotations:\n        test.holdfast.dev/word: "+word+"\n", 1)
			}
		}
		return strings.Join(docs, "\n---\n")
	}
}

// changeInTrial changes a row of Keycloak's once the release is on trial.
func (o others) changeInTrial(ctx context.Context, t *testing.T, vm *lab.VM, said int) error {
	for {
		c, err := vm.Console()
		if err != nil {
			return err
		}
		b, err := io.ReadAll(c)
		c.Close()
		if err != nil {
			return err
		}
		if strings.Contains(string(b[said:]), "update: the new release takes over") {
			p, err := try(t, o.site, psqlArgs("keycloak", "update user_entity set email = 'trial@example' where username = 'audit'")...)
			if err == nil {
				return nil
			}
			t.Log("in the trial: ", p.both)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no row was changed in the trial: %w", ctx.Err())
		case <-time.After(2 * time.Second):
		}
	}
}

// page starts what a site's user has: a pod behind the ingress.
func (o others) page(t *testing.T) {
	t.Helper()
	image := run(t, o.site, "lab", "kubectl", "get", "deployment", "-n", "kube-system", "coredns", "-o", "jsonpath={.spec.template.spec.containers[0].image}").stdout
	file := filepath.Join(t.TempDir(), "page.yaml")
	must(t, os.WriteFile(file, fmt.Appendf(nil, `apiVersion: v1
kind: ConfigMap
metadata: {name: page, namespace: team}
data:
  Corefile: |
    .:1053 {
      health :8080
    }
---
apiVersion: v1
kind: Pod
metadata: {name: page, namespace: team, labels: {app: page}}
spec:
  securityContext: {runAsNonRoot: true, runAsUser: 1000, seccompProfile: {type: RuntimeDefault}}
  containers:
    - name: page
      image: %s
      args: [-conf, /etc/page/Corefile]
      securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
      volumeMounts: [{name: page, mountPath: /etc/page}]
  volumes: [{name: page, configMap: {name: page}}]
---
apiVersion: v1
kind: Service
metadata: {name: page, namespace: team}
spec:
  selector: {app: page}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: page, namespace: team}
spec:
  rules:
    - host: page.%s
      http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: page, port: {number: 80}}}}]}
`, image, o.domain), 0o644))
	run(t, o.site, "lab", "kubectl", "apply", "-f", file)
	run(t, o.site, "lab", "kubectl", "wait", "-n", "team", "--for=condition=Ready", "pod/page", "--timeout=5m")
	o.pageIsThere(t)
}

// pageIsThere waits for it: the ingress learns of changes by watching.
func (o others) pageIsThere(t *testing.T) {
	t.Helper()
	said := ""
	for start := time.Now(); time.Since(start) < 2*time.Minute; time.Sleep(time.Second) {
		if said = o.askPage(t.Context()); said == "200 OK" {
			return
		}
	}
	t.Errorf("the users' page is not there: %s", said)
}

func (o others) askPage(ctx context.Context) string {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://page."+o.domain+"/health", nil)
	if err != nil {
		return err.Error()
	}
	resp, err := o.client.Do(req)
	if err != nil {
		return err.Error()
	}
	resp.Body.Close()
	return resp.Status
}

// watch asks for the page until it is told to give what it saw, by how often.
func (o others) watch(t *testing.T) func() map[string]int {
	ctx, stop := context.WithCancel(t.Context())
	seen := map[string]int{}
	var asking sync.WaitGroup
	asking.Go(func() {
		for ctx.Err() == nil {
			if said := o.askPage(ctx); ctx.Err() == nil {
				seen[said]++
			}
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	})
	return func() map[string]int {
		stop()
		asking.Wait()
		return seen
	}
}

// closed sees that the page was there, and that the ingress said that its pod
// could not be reached.
func (o others) closed(t *testing.T, seen map[string]int) {
	t.Helper()
	t.Logf("the users' page answered %v", seen)
	if seen["200 OK"] == 0 || seen["502 Bad Gateway"]+seen["504 Gateway Timeout"] == 0 {
		t.Errorf("the users' page was not there and closed for the trial: %v", seen)
	}
}
