package boot_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/qemu-tests/lab"
	"holdfast.dev/holdfast/qemu-tests/longtest"
	"holdfast.dev/holdfast/qemu-tests/totp"
)

// TestPlatformSite boots a site with all that the catalog has for people, and
// uses it from outside by its public names: sign-on, the API, the registry, a pod
// from an image of that registry, its line in the logs, objects. Then every pod of
// the platform goes once, two updates come, of which the second goes back, the
// node reboots, and the disk is lost and restored.
func TestPlatformSite(t *testing.T) {
	longtest.Begin(t, "qemu-system-x86_64", "qemu-img", "skopeo", "tar", "curl")
	if os.Getenv("HOLDFAST_LONG") == "" {
		t.Skip("takes more than an hour; HOLDFAST_LONG=1 runs it")
	}
	site, up := platformSite(t, platformComponents)
	o := up()
	usePlatform(t, o)
	t.Run("EveryPodOnce", o.everyPodOnce)
	t.Run("DatabaseUnreachable", o.databaseUnreachable)
	t.Run("Reboot", func(t *testing.T) {
		start := time.Now()
		run(t, site, "lab", "reboot", "--wait")
		t.Logf("reboot to healthy: %.0f s", time.Since(start).Seconds())
		o.stillThere(t)
	})
	t.Run("Updates", func(t *testing.T) { o.updates(t, o.stillThere) })
	backup := filepath.Join(t.TempDir(), "site.holdfast-backup")
	t.Run("Backup", func(t *testing.T) { run(t, site, "lab", "backup", backup) })
	t.Run("Wire", func(t *testing.T) {
		vm, err := lab.Open(filepath.Join(site, "out", "lab"))
		must(t, err)
		run(t, site, "lab", "down")
		nothingLeft(t, vm)
	})
	t.Run("Restore", func(t *testing.T) {
		o := up("--fresh", "--restore", backup)
		o.stillThere(t)
	})
}

// TestPlatformUpdates takes a site with nothing but people and a way in through
// the same two updates.
func TestPlatformUpdates(t *testing.T) {
	longtest.Begin(t, "qemu-system-x86_64", "qemu-img")
	if os.Getenv("HOLDFAST_LONG") == "" {
		t.Skip("takes an hour; HOLDFAST_LONG=1 runs it")
	}
	site, up := platformSite(t, `components:
  - {name: postgresql, origin: source}
  - {name: keycloak, origin: source}
  - {name: certificates, origin: source}
  - {name: ingress, origin: source}
`)
	o := up()
	o.addUser(t, "dev", "developer", true)
	o.addUser(t, "audit", "auditor", true)
	run(t, site, "lab", "kubectl", "create", "namespace", "team")
	o.updates(t, func(t *testing.T) { o.token(t, "dev", "") })
}

// platformSite builds a site with those components. up boots it.
func platformSite(t *testing.T, components string) (site string, up func(args ...string) others) {
	site = filepath.Join(openDir(t, "platform"), "boot")
	run(t, ".", "init", "--name", "boot", site)
	changeFile(t, filepath.Join(site, "site.yaml"), `(?m)^components:\n(  .*\n)+`, components)
	run(t, site, "keys", "generate", "--development")
	lockSite(t, site)
	run(t, site, "collect")
	run(t, site, "build")
	web, objects := freePort(t), freePort(t)
	t.Cleanup(func() {
		if _, err := try(t, site, "lab", "down"); err != nil {
			t.Log(err)
		}
	})
	return site, func(args ...string) others {
		start := time.Now()
		run(t, site, append([]string{"lab", "up", "--wait", "--memory", "8192", "--timeout", "60m",
			"--forward", fmt.Sprintf("%d:443", web), "--forward", fmt.Sprintf("%d:9000", objects)}, args...)...)
		t.Logf("healthy after %.0f s", time.Since(start).Seconds())
		t.Logf("%s", run(t, site, "lab", "status").stdout)
		return outside(t, site, map[string]int{"443": web, "9000": objects})
	}
}

const platformComponents = `components:
  - {name: postgresql, origin: source}
  - {name: keycloak, origin: source}
  - {name: registry, origin: source}
  - {name: certificates, origin: source}
  - {name: ingress, origin: source}
  - {name: minio, origin: source}
  - {name: loki, origin: source}
  - {name: collector, origin: source}
  - {name: monitoring, origin: source}
`

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

const (
	password  = "correct horse battery staple"
	otpSecret = "holdfast-test-secret"
)

func usePlatform(t *testing.T, o others) {
	for name, group := range map[string]string{"admin1": "platform-admin", "dev": "developer", "audit": "auditor"} {
		o.addUser(t, name, group, true)
	}
	o.addUser(t, "machine", "developer", false)
	t.Run("API", o.api)
	t.Run("Registry", o.registry)
	t.Run("Logs", o.logs)
	t.Run("Objects", o.objects)
}

// others is somebody on the site's network, with its certificate.
type others struct {
	site, domain string
	ports        map[string]int // here, by those of the node
	authority    string         // file
	client       *http.Client
	proxy        string            // for programs: it knows the names
	codes        map[string]string // the last one-time code of each user, which counts once
}

func outside(t *testing.T, site string, ports map[string]int) others {
	t.Helper()
	o := others{site: site, ports: ports, authority: filepath.Join(t.TempDir(), "ca.crt"), codes: map[string]string{}}
	o.domain = strings.TrimPrefix(run(t, site, "lab", "kubectl", "get", "ingress", "-n", "keycloak", "-o", "jsonpath={.items[0].spec.rules[0].host}").stdout, "id.")
	pem := o.secret(t, "certificates", "site-authority", "tls.crt")
	must(t, os.WriteFile(o.authority, []byte(pem), 0o644))
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(pem))
	proxy := httptest.NewServer(http.HandlerFunc(o.connect))
	t.Cleanup(proxy.Close)
	o.proxy = proxy.URL
	at, err := url.Parse(proxy.URL)
	must(t, err)
	o.client = &http.Client{Timeout: 2 * time.Minute, Transport: &http.Transport{
		Proxy: http.ProxyURL(at), TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}}
	return o
}

func (o others) secret(t *testing.T, namespace, name, key string) string {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(run(t, o.site, "lab", "kubectl", "get", "secret", "-n", namespace, name,
		"-o", "jsonpath={.data."+strings.ReplaceAll(key, ".", `\.`)+"}").stdout)
	must(t, err)
	return string(b)
}

// connect is a proxy to which every name of the site is the node.
func (o others) connect(w http.ResponseWriter, r *http.Request) {
	host, port, err := net.SplitHostPort(r.Host)
	if r.Method != http.MethodConnect || err != nil || !strings.HasSuffix(host, "."+o.domain) || o.ports[port] == 0 {
		http.Error(w, "not a name of the site: "+r.Host, http.StatusForbidden)
		return
	}
	there, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", o.ports[port]))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer there.Close()
	w.WriteHeader(http.StatusOK)
	here, early, err := w.(http.Hijacker).Hijack() // its first bytes may have been read already
	if err != nil {
		return
	}
	defer here.Close()
	go func() {
		_, _ = io.Copy(there, early)
		there.Close()
	}()
	_, _ = io.Copy(here, there)
}

func (o others) call(t *testing.T, token, path string, body any) (string, int) {
	t.Helper()
	method, kind := http.MethodPost, "application/json"
	var send []byte
	switch b := body.(type) {
	case nil:
		method = http.MethodGet
	case url.Values:
		kind, send = "application/x-www-form-urlencoded", []byte(b.Encode())
	default:
		var err error
		send, err = json.Marshal(b)
		must(t, err)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, "https://id."+o.domain+path, bytes.NewReader(send))
	must(t, err)
	req.Header.Set("Content-Type", kind)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := o.client.Do(req)
	must(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	must(t, err)
	return string(b), resp.StatusCode
}

func (o others) grant(t *testing.T, realm string, form url.Values) (idToken, accessToken, answer string) {
	t.Helper()
	form.Set("grant_type", "password")
	answer, _ = o.call(t, "", "/realms/"+realm+"/protocol/openid-connect/token", form)
	var a struct {
		ID     string `json:"id_token"`
		Access string `json:"access_token"`
	}
	must(t, json.Unmarshal([]byte(answer), &a))
	return a.ID, a.Access, answer
}

// addUser adds somebody, with a one-time code that is set up already or, as
// for a machine, none.
func (o others) addUser(t *testing.T, name, group string, code bool) {
	t.Helper()
	_, admin, answer := o.grant(t, "master", url.Values{"client_id": {"admin-cli"}, "username": {"admin"}, "password": {o.secret(t, "keycloak", "keycloak-admin", "password")}})
	if admin == "" {
		t.Fatalf("the administrator gets no token: %s", answer)
	}
	credentials := []map[string]any{{"type": "password", "value": password, "temporary": false}}
	if code {
		credentials = append(credentials, map[string]any{"type": "otp",
			"secretData": fmt.Sprintf(`{"value":%q}`, otpSecret), "credentialData": `{"subType":"totp","digits":6,"period":30,"algorithm":"HmacSHA1"}`})
	}
	user := map[string]any{"username": name, "enabled": true, "email": name + "@" + o.domain, "firstName": name, "lastName": name,
		"groups": []string{"/" + group}, "credentials": credentials}
	if answer, status := o.call(t, admin, "/admin/realms/site/partialImport", map[string]any{"ifResourceExists": "FAIL", "users": []any{user}}); status != 200 {
		t.Fatalf("the user is not added: %d %s", status, answer)
	}
}

// token signs in with password and one-time code. A want that is given must be
// in the answer, and no token.
func (o others) token(t *testing.T, user, want string) string {
	t.Helper()
	form := url.Values{"client_id": {"kubernetes"}, "client_secret": {o.secret(t, "keycloak", "keycloak-clients", "kubernetes")}}
	return o.tokenOf(t, form, user, want)
}

func (o others) tokenOf(t *testing.T, form url.Values, user, want string) string {
	t.Helper()
	form.Set("username", user)
	form.Set("password", password)
	form.Set("scope", "openid")
	if want == "" {
		code := totp.Code(otpSecret, time.Now())
		for code == o.codes[user] {
			time.Sleep(time.Second)
			code = totp.Code(otpSecret, time.Now())
		}
		o.codes[user] = code
		form.Set("totp", code)
	}
	id, _, answer := o.grant(t, "site", form)
	if (id == "") != (want != "") || !strings.Contains(answer, want) {
		t.Fatalf("%s signs in: %s", user, answer)
	}
	return id
}

// api asks the cluster's API as people of each group.
func (o others) api(t *testing.T) {
	o.token(t, "dev", "invalid_grant")
	can := func(config string, args ...string) bool {
		p, _ := try(t, o.site, append([]string{"lab", "kubectl", "--kubeconfig", config, "auth", "can-i"}, args...)...)
		answer := strings.TrimSpace(p.stdout)
		if answer != "yes" && answer != "no" {
			t.Fatalf("can-i %s: %s", args, p.both)
		}
		return answer == "yes"
	}
	configs := map[string]string{}
	for _, who := range []string{"admin1", "dev", "audit"} {
		configs[who] = o.kubeconfig(t, o.token(t, who, ""))
	}
	whoami := run(t, o.site, "lab", "kubectl", "--kubeconfig", configs["dev"], "auth", "whoami", "-o", "json").stdout
	for _, w := range []string{`"username": "id:dev"`, `"id:developer"`} {
		if !strings.Contains(whoami, w) {
			t.Errorf("the API does not know %s:\n%s", w, whoami)
		}
	}
	for _, c := range []struct {
		who  string
		want bool
		args []string
	}{
		{"admin1", true, []string{"create", "clusterroles"}},
		{"audit", true, []string{"list", "pods", "-A"}},
		{"audit", false, []string{"get", "secrets", "-A"}},
		{"audit", false, []string{"create", "pods", "-n", "default"}},
		{"dev", false, []string{"list", "pods", "-n", "default"}},
	} {
		if got := can(configs[c.who], c.args...); got != c.want {
			t.Errorf("%s may %s: %v", c.who, c.args, got)
		}
	}
	run(t, o.site, "lab", "kubectl", "create", "namespace", "team")
	run(t, o.site, "lab", "kubectl", "create", "rolebinding", "developers", "--clusterrole", "edit", "--group", "id:developer", "-n", "team")
	if !can(configs["dev"], "create", "deployments", "-n", "team") {
		t.Error("a developer may not work where developers may")
	}
}

// kubeconfig is a file for kubectl with a token, and no certificate, which would
// come first.
func (o others) kubeconfig(t *testing.T, token string) string {
	t.Helper()
	var c map[string]any
	must(t, json.Unmarshal([]byte(run(t, o.site, "lab", "kubectl", "config", "view", "--raw", "-o", "json").stdout), &c))
	c["users"].([]any)[0].(map[string]any)["user"] = map[string]any{"token": token}
	b, err := json.Marshal(c)
	must(t, err)
	name := filepath.Join(t.TempDir(), "kubeconfig")
	must(t, os.WriteFile(name, b, 0o600))
	return name
}

// registry pushes an image of the release under another name, pulls it, and runs
// it as a pod from there.
func (o others) registry(t *testing.T) {
	layout := filepath.Join(openDir(t, "platform-bundle"), "layout")
	must(t, os.Mkdir(layout, 0o755))
	_, base := result(t, o.site)
	tool(t, "tar", "-xf", base+".bundle", "-C", layout)
	must(t, os.WriteFile(filepath.Join(layout, "index.json"), []byte(pauseOf(t, layout)), 0o644))
	there := "registry." + o.domain + "/team/pause:1"
	skopeo := func(args ...string) (string, error) {
		cmd := exec.Command("skopeo", args...)
		cmd.Env = append(os.Environ(), "SSL_CERT_FILE="+o.authority, "HTTPS_PROXY="+o.proxy, "NO_PROXY=")
		b, err := cmd.CombinedOutput()
		return string(b), err
	}
	for _, bad := range []string{"machine:wrong", "audit:" + password} {
		if out, err := skopeo("copy", "--dest-creds", bad, "oci:"+layout+":it", "docker://"+there); err == nil {
			t.Errorf("pushed as %s: %s", bad, out)
		}
	}
	if out, err := skopeo("copy", "--dest-creds", "machine:"+password, "oci:"+layout+":it", "docker://"+there); err != nil {
		t.Fatalf("cannot push: %v: %s", err, out)
	}
	if out, err := skopeo("copy", "--src-creds", "dev:"+password, "docker://"+there, "dir:"+filepath.Join(t.TempDir(), "back")); err != nil {
		t.Errorf("cannot pull: %v: %s", err, out)
	}
	kubectl := func(args ...string) string {
		return run(t, o.site, append([]string{"lab", "kubectl", "-n", "team"}, args...)...).stdout
	}
	for name, secret := range map[string]string{"right": password, "wrong": "wrong"} {
		kubectl("create", "secret", "docker-registry", name, "--docker-server", "registry."+o.domain, "--docker-username", "machine", "--docker-password", secret)
		kubectl("run", name, "--image", there, "--image-pull-policy", "Always", "--overrides",
			fmt.Sprintf(`{"spec":{"imagePullSecrets":[{"name":%q}]}}`, name))
	}
	kubectl("wait", "--for=condition=Ready", "pod/right", "--timeout=5m")
	kubectl("wait", `--for=jsonpath={.status.containerStatuses[0].state.waiting.reason}=ImagePullBackOff`, "pod/wrong", "--timeout=5m")
}

// pauseOf is an index with the release's pause image alone, by the name "it".
func pauseOf(t *testing.T, layout string) string {
	t.Helper()
	read := func(digest string) (index struct {
		Manifests []struct {
			MediaType, Digest string
			Size              int64
			Annotations       map[string]string
		}
	}) {
		b, err := os.ReadFile(filepath.Join(layout, "blobs", strings.Replace(digest, ":", "/", 1)))
		must(t, err)
		must(t, json.Unmarshal(b, &index))
		return index
	}
	b, err := os.ReadFile(filepath.Join(layout, "index.json"))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(layout, "blobs", "top"), b, 0o644))
	for _, top := range read("top").Manifests {
		if top.Annotations["dev.holdfast.part"] != "release" {
			continue
		}
		for _, m := range read(top.Digest).Manifests {
			if strings.HasPrefix(m.Annotations["org.opencontainers.image.ref.name"], "registry.k8s.io/pause:") {
				return fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"mediaType":%q,"digest":%q,"size":%d,"annotations":{"org.opencontainers.image.ref.name":"it"}}]}`,
					m.MediaType, m.Digest, m.Size)
			}
		}
	}
	t.Fatal("the release has no pause image")
	return ""
}
