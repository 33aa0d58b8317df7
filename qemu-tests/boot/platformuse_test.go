package boot_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"net/url"
	"os/exec"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/qemu-tests/lab"
)

// logs has an auditor look for the line that the push left.
func (o others) logs(t *testing.T) {
	query := "/loki/api/v1/query_range?" + url.Values{"query": {`{namespace="registry"} |= "/v2/team/pause/manifests/1"`}, "since": {"1h"}}.Encode()
	auditor := o.kubeconfig(t, o.token(t, "audit", ""))
	ask := func(who, service, path string) (printed, error) {
		return try(t, o.site, "lab", "kubectl", "--kubeconfig", who, "get", "--raw", "/api/v1/namespaces/loki/services/"+service+"/proxy"+path)
	}
	start, said, found := time.Now(), "", false
	for !found && time.Since(start) < 30*time.Second {
		p, err := ask(auditor, "loki-read:3101", query)
		var answer struct {
			Data struct{ Result []json.RawMessage }
		}
		if said = p.both; err == nil && json.Unmarshal([]byte(p.stdout), &answer) == nil && len(answer.Data.Result) > 0 {
			t.Logf("the push is in the logs, seen after %.0f s", time.Since(start).Seconds())
			found = true
		}
		time.Sleep(2 * time.Second)
	}
	if !found {
		t.Errorf("the push is not in the logs within 30 s: %s", said)
	}
	for path, service := range map[string]string{query: "loki:3100", "/flush": "loki-read:3101"} {
		if p, err := ask(auditor, service, path); err == nil || !strings.Contains(p.both, "orbidden") {
			t.Errorf("an auditor asks %s for %s: %s", service, path, p.both)
		}
	}
	if p, err := ask(o.kubeconfig(t, o.token(t, "dev", "")), "loki-read:3101", query); err == nil || !strings.Contains(p.both, "forbidden") {
		t.Errorf("a developer reads all lines: %s", p.both)
	}
}

// objects writes and reads with credentials that a token gets.
func (o others) objects(t *testing.T) {
	u := o.credentials(t, "dev")
	u.want(t, "PUT", "/people/dev/kept", "kept", "200", "")
	u.want(t, "GET", "/people/dev/kept", "", "200", "kept")
	u.want(t, "PUT", "/people/audit/kept", "kept", "403", "AccessDenied")
	if out := o.assume(t, "audit"); strings.Contains(out, "SecretAccessKey") {
		t.Errorf("an auditor gets %s", out)
	}
}

type s3User struct {
	others
	key, secret, session string
}

func (o others) curl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("curl", append([]string{"-s", "--cacert", o.authority, "--proxy", o.proxy, "--noproxy", "", "--max-time", "120"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("curl: %v: %s", err, out)
	}
	return string(out)
}

func (o others) assume(t *testing.T, user string) string {
	t.Helper()
	token := o.tokenOf(t, url.Values{"client_id": {"minio"}}, user, "")
	return o.curl(t, "-d", "Action=AssumeRoleWithWebIdentity", "-d", "Version=2011-06-15", "-d", "WebIdentityToken="+token, "https://s3."+o.domain+":9000/")
}

func (o others) credentials(t *testing.T, user string) s3User {
	t.Helper()
	out := o.assume(t, user)
	var answer struct {
		Result struct {
			Credentials struct{ AccessKeyId, SecretAccessKey, SessionToken string }
		} `xml:"AssumeRoleWithWebIdentityResult"`
	}
	must(t, xml.Unmarshal([]byte(out), &answer))
	c := answer.Result.Credentials
	if c.AccessKeyId == "" {
		t.Fatalf("%s gets no credentials: %s", user, out)
	}
	return s3User{o, c.AccessKeyId, c.SecretAccessKey, c.SessionToken}
}

func (u s3User) want(t *testing.T, method, path, body, code, says string) {
	t.Helper()
	sum := sha256.Sum256([]byte(body))
	args := []string{"-X", method, "-w", "\n%{http_code}", "--aws-sigv4", "aws:amz:us-east-1:s3", "--user", u.key + ":" + u.secret,
		"-H", "x-amz-security-token: " + u.session, "-H", "x-amz-content-sha256: " + hex.EncodeToString(sum[:]), "-H", "Content-Type: text/plain"}
	if body != "" {
		args = append(args, "--data-binary", body)
	}
	out := u.curl(t, append(args, "https://s3."+u.domain+":9000"+path)...)
	i := strings.LastIndex(out, "\n")
	if out[i+1:] != code || !strings.Contains(out[:i], says) {
		t.Errorf("%s %s: %s, want %s with %q", method, path, out, code, says)
	}
}

// everyPodOnce takes each pod of the platform away, and waits until the site is
// healthy again. Pods of the control plane are the kubelet's, and not to be taken
// away by the API.
func (o others) everyPodOnce(t *testing.T) {
	vm, err := lab.Open(o.site + "/out/lab")
	must(t, err)
	for _, line := range strings.Fields(run(t, o.site, "lab", "kubectl", "get", "pods", "-A", "--field-selector", "status.phase=Running", "-o",
		`jsonpath={range .items[?(@.metadata.ownerReferences[0].kind!="Node")]}{.metadata.namespace}/{.metadata.name}{"\n"}{end}`).stdout) {
		namespace, name, _ := strings.Cut(line, "/")
		if namespace == "team" {
			continue
		}
		start := time.Now()
		run(t, o.site, "lab", "kubectl", "delete", "pod", "-n", namespace, name, "--wait", "--timeout=5m")
		time.Sleep(22 * time.Second) // for the status to notice
		must(t, vm.WaitHealthy(t.Context(), nil))
		t.Logf("%s: healthy again after %.0f s", line, time.Since(start).Seconds())
	}
	o.stillThere(t)
}

// databaseUnreachable takes the way to the database away: the status says what
// Keycloak lacks, and the agent brings the way back.
func (o others) databaseUnreachable(t *testing.T) {
	f := faulty{o.site}
	f.kubectl(t, "delete", "service", "-n", "postgresql", "postgresql")
	f.kubectl(t, "delete", "pod", "-n", "postgresql", "postgresql-0") // with the connections that are open
	f.says(t, "keycloak", "(?i)it answers 503:.*database")
	f.healthy(t, 20*time.Minute)
	o.stillThere(t)
}

// stillThere looks for what people had before, and has somebody sign in.
func (o others) stillThere(t *testing.T) {
	o.credentials(t, "dev").want(t, "GET", "/people/dev/kept", "", "200", "kept")
	inspect := exec.Command("skopeo", "inspect", "--creds", "dev:"+password, "docker://registry."+o.domain+"/team/pause:1")
	inspect.Env = append(inspect.Environ(), "SSL_CERT_FILE="+o.authority, "HTTPS_PROXY="+o.proxy, "NO_PROXY=")
	if out, err := inspect.CombinedOutput(); err != nil {
		t.Errorf("the image that was pushed: %v: %s", err, out)
	}
	if got := run(t, o.site, "lab", "kubectl", "get", "pod", "-n", "team", "right", "-o", "jsonpath={.status.phase}").stdout; got != "Running" {
		t.Errorf("the pod of the site's registry is %q", got)
	}
}
