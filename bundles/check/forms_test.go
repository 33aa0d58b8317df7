package check

import (
	"strings"
	"testing"

	"holdfast.dev/holdfast/airgap/store"
)

var someDigest = string(store.FromBytes(nil))

// What is the name of an image, and what only looks like it.
func TestIsImage(t *testing.T) {
	for _, yes := range []string{
		"registry.example/app:1", "registry.example:5000/team/app:1.4-rc_1", "localhost/app:1", "localhost:5000/app:1",
		"registry:5000/app:1", "10.0.0.1:5000/app:1", "10.0.0.1/app:1", "docker.io/library/postgres:17", "ghcr.io/a/b__c/d-e.f:v1",
		"registry.example/app@" + someDigest, "registry.example/app:1@" + someDigest, "xn--bcher-kva.example/app:1",
		"REGISTRY.example/app:Latest",
	} {
		if !isImage(yes) {
			t.Errorf("%s is the name of an image", yes)
		}
	}
	for _, no := range []string{
		"", "/", ":", "postgres", "postgres:17", "library/postgres:17", // no registry
		"registry.example/app", "registry.example:5000/app", "registry.example/team/app", // no tag
		"apps/v1", "storage.k8s.io/v1", "kubernetes.io/os", "app.kubernetes.io/name", "rancher.io/local-path",
		"node-role.kubernetes.io/control-plane:NoSchedule", "example.org/gpu:NoExecute", "example.org/gpu:PreferNoSchedule-",
		"github.com/foo/bar", "github.com/foo/bar@v1.2.3", "k8s.io/api@v0.36.3", "example.org/a@latest",
		"registry.example/app@sha256:12", "registry.example/app@sha512:" + strings.Repeat("0", 64), "registry.example/App:1",
		"/usr/lib/x.so:1", "./a.b/c:1", "../a/b:1", "conf.d/app:1", "v1.2/app:3", "a.1/b:2",
		"10.0.0.0/8", "10.0.0.0/8:53", "2001:db8::/32", "127.0.0.1:5000", "registry.example:5000", "mail.example.org:25",
		"system:serviceaccount:a:b", "user@registry.example/app:1", "https://registry.example/app:1", "12:30:00", "a:b/c:d",
		"registry.example/app:", "registry.example/:1", "registry.example//app:1", "registry.example/app:1/x", "registry.example/app:-1",
		"registry.example:port/app:1", "-registry.example/app:1", "registry..example/app:1", "registry.example/app:" + strings.Repeat("a", 129),
	} {
		if isImage(no) {
			t.Errorf("%s is not the name of an image", no)
		}
	}
}

func TestHosts(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"", "https://example.org", "example.org"},
		{"", "HTTPS://Example.ORG./x", "example.org"},
		{"", "see <http://a.example.org>, (http://b.example.org) and 'http://c.example.org'.", "a.example.org b.example.org c.example.org"},
		{"", "jdbc:postgresql://a.example.org:5432/db?ssl=1", "a.example.org"},
		{"", "kafka://a.example.org:1,b.example.org:2/x", "a.example.org b.example.org"},
		{"", "a=https://10.0.0.1:2380,b=https://b.example.org:2380", "10.0.0.1 b.example.org"},
		{"", "oci://registry.example/charts/app:1", "registry.example"},
		{"", "http://[2606:4700::1111]:80/", "2606:4700::1111"},
		{"", "git+ssh://git@example.org/x.git", "example.org"},
		{"", `{"url":"http://example.org\n"}`, "example.org"},
		{"", "https://example", "example"},
		{"", "http:// https:///x file:///a unix:///run/a.sock urn:example:a a://? ://", ""},
		{"", "http://$(HOST) http://${HOST}:80 http://{{.Host}}/ http://%s:80 http://<host>/", ""},
		{"", "http://a.example.org:$(PORT)/ http://b.example.org:http/ http://c.example.org:99999", "a.example.org b.example.org c.example.org"},
		{"", "https://bücher.example/ http://1.2.3.4.5/ http://a_b.example.o2/", "1.2.3.4.5 a_b.example.o2 bücher.example"},
		{"", "a=http://.*/ http://*/ http://../ http://a..b/", "a..b"},
		{"", "https://$(A)-$(B).example.org:1", "*.example.org"},
		{"", "a.example.org:443", "a.example.org"},
		{"", "[a.example.org:443, b.example.org:80/path]", "a.example.org b.example.org"},
		{"", "registry.example:5000/team", "registry.example"},
		{"", "registry.example:5000/team/app:1", ""}, // an image, which is another question
		{"", "8.8.8.8:53", "8.8.8.8"},
		{"", "a.example.org a.example.org:x a.example.org:0 a.example.org:70000 8.8.8.8 v1.2:3 :8080 *:80", ""},
		{"", "apps/v1 storage.k8s.io/v1 kubernetes.io/os:linux 2001:db8::1 std::string 01:02:03", ""},
		{"SMTP_HOST", "mail.example.org", "mail.example.org"},
		{"smtpHost", "mail.example.org:25", "mail.example.org"},
		{"brokers", "a.example.org,b.example.org", "a.example.org b.example.org"},
		{"registry", "docker.io/library", "docker.io"},
		{"host", "db", "db"},
		{"ip", "8.8.8.8", "8.8.8.8"},
		{"NO_PROXY", ".svc,example.org,10.0.0.0/8", ""},
		{"serverName", "mail.example.org", ""},
		{"name", "mail.example.org", ""},
		{"topologyKey", "kubernetes.io/hostname", ""},
		{"", "--endpoint=a.example.org", "a.example.org"},
		{"", "--proxy-url=http://a.example.org", "a.example.org"},
		{"", "-config=/etc/a.conf --x", ""},
	} {
		var got []string
		for _, h := range (value{text: c.text, name: c.name}).hosts() {
			got = append(got, h.text)
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%s %q: hosts are %q, want %q", c.name, c.text, s, c.want)
		}
	}
}

// Whatever a text holds, what is found in it is in it, and has the form of what
// it was taken for.
func FuzzValue(f *testing.F) {
	for _, s := range []string{"--image=registry.example/app:1", "https://u:p@a.example.org:1,b/x?y=z://c", "# a\nhost: a.example.org\n",
		"http://[::1%25eth0]:80 http://$(A).b http://{{}}", "a.b:1/\\\"://,,@", "https://\xff.example"} {
		f.Add("host", s)
	}
	f.Fuzz(func(t *testing.T, name, text string) {
		v := value{text: text, name: name, line: 1, block: true, runs: true}
		lines := strings.Count(text, "\n") + 2
		for _, im := range v.images() {
			if !isImage(im.text) && !isShortImage(im.text) && !isUntagged(im.text) || !strings.Contains(text, im.text) || im.line < 2 || im.line > lines {
				t.Errorf("%q has the image %q on line %d", text, im.text, im.line)
			}
		}
		for _, h := range v.hosts() {
			base := strings.TrimPrefix(h.text, "*.")
			if _, isIP := address(h.text); !isIP && !isName(base) && !isLabel(base) && strings.ContainsFunc(base, notInNames) || h.line < 2 || h.line > lines {
				t.Errorf("%q has the host %q on line %d", text, h.text, h.line)
			}
		}
	})
}
