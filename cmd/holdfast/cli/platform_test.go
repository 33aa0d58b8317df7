package cli

import (
	"bytes"
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast.dev/holdfast/airgap"
	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles/catalog"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/node"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/secrets"
	"holdfast.dev/holdfast/overlays"
	"holdfast.dev/holdfast/qemu-tests/longtest"
	"holdfast.dev/holdfast/qemu-tests/totp"
)

// TestPlatform runs the platform's own images by their own manifests: a client
// gets its database, people get tokens by password and one-time code, and an
// image is pushed and pulled with a token.
func TestPlatform(t *testing.T) {
	longtest.Begin(t)
	runsPods(t, "skopeo")
	if c, err := (&app{Host: System()}).mavenClient(overlays.Site{}); err != nil || len(c.Repositories) == 0 {
		t.Skipf("no Maven repository: %v", err)
	}
	b := siteOf(t, "postgresql", "keycloak", "registry")
	// One to which people come by browser; the others are wired already.
	i := slices.IndexFunc(b.in.components, func(c catalog.Component) bool { return c.Name == "keycloak" })
	offers := b.in.components[i]
	offers.Uses = nil
	wired, err := catalog.Wire([]catalog.Component{offers, {Name: "web", Namespace: "web", Uses: []catalog.Use{{Component: "keycloak", Offer: "sign-in",
		Secret: "sign-in", Words: map[string]string{"REDIRECT": "https://web.source.example/back"}}}}})
	must(t, err)
	b.in.components = append(b.in.components, wired[1])
	p := b.pods(t)
	p.certificate(t, "postgresql", "postgresql")
	p.front(t)
	postgres := p.start("StatefulSet", "postgresql", "postgresql")
	postgres.until(t.Context(), 5*time.Minute, "listening", func() bool {
		_, err := p.inside("bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/5432")
		return err == nil
	})
	// Twice, as it is after an update.
	for range 2 {
		p.hook(t, "postgresql", "database-keycloak")
	}
	rows := p.ownTables(t)
	p.hook(t, "postgresql", "database-keycloak")
	p.logClasses(true)
	keycloak := p.start("Deployment", "keycloak", "keycloak")
	t.Logf("Keycloak's first start on an empty database: %v", p.keycloakReady(t, keycloak))
	p.fromArchive(t)
	p.logClasses(false)
	if !strings.Contains(keycloak.said(), "keycloak-start: made the tables in ") || strings.Contains(keycloak.said(), "Initializing database schema") {
		t.Errorf("Keycloak made its tables by itself:\n%s", keycloak.said())
	}
	if strings.Contains(keycloak.said(), "ARJUNA") {
		t.Errorf("Keycloak cannot write its log of transactions:\n%s", keycloak.said())
	}
	if got := p.rows(t); !maps.Equal(got, rows) {
		t.Errorf("its tables have the rows %v, and where it made them by itself %v", got, rows)
	}
	for _, secret := range p.secrets {
		for key, text := range secret {
			if key != "tls.crt" && (strings.Contains(keycloak.said(), text) || strings.Contains(postgres.said(), text)) {
				t.Errorf("the secret %s is in a log", key)
			}
		}
	}
	// Two failures at once lock somebody out for a minute: that is other's part.
	p.addUser(t, "dev", password, "developer")
	p.addUser(t, "other", password, "developer")
	p.addUser(t, "audit", password, "auditor")
	p.token(t)
	for range 2 {
		p.hook(t, "keycloak", "sign-in-web")
	}
	p.signIn(t)

	registry := p.start("Deployment", "registry", "registry")
	registry.until(t.Context(), 5*time.Minute, "ready", func() bool {
		_, err := p.inside("curl", "-sf", "http://registry.registry.svc.cluster.local:5000/")
		return err == nil
	})
	p.image(t)

	postgres.with = syscall.SIGINT // as its preStop does: clients are not waited for
	postgres.stop()
	keycloak.until(t.Context(), 5*time.Minute, "without its database", func() bool { return !p.ready() })
	p.start("StatefulSet", "postgresql", "postgresql")
	t.Logf("well again %v after its database came back", p.keycloakReady(t, keycloak))

	// An update takes its data along, and goes back without them.
	p.hook(t, "postgresql", "dump-keycloak")
	p.addUser(t, "late", password, "developer")
	keycloak.stop()
	for range 2 {
		p.hook(t, "postgresql", "restore-keycloak")
	}
	keycloak = p.start("Deployment", "keycloak", "keycloak")
	t.Logf("Keycloak's later start: %v", p.keycloakReady(t, keycloak))
	p.addUser(t, "late", password, "developer") // who is there already is refused
	if !strings.Contains(keycloak.said(), "'site' already exists. Import skipped") {
		t.Error("the realm was imported again")
	}
	p.token(t)
}

// signIn sees that the client web is known by its secret, sends people back to
// its own address and nowhere else, wants PKCE, and takes no password.
func (p *pods) signIn(t *testing.T) {
	t.Helper()
	secret := p.secrets["web/sign-in"]["secret"]
	const at, back = "/realms/site/protocol/openid-connect", "https://web.source.example/back"
	for _, c := range []struct {
		what, want string
		form       map[string]string
	}{
		{"a code that is none", "Code not valid", map[string]string{"grant_type": "authorization_code", "code": "x", "redirect_uri": back, "client_secret": secret}},
		{"another secret", "unauthorized_client", map[string]string{"grant_type": "authorization_code", "code": "x", "redirect_uri": back, "client_secret": strings.Repeat("x", 48)}},
		{"a password", "unauthorized_client", map[string]string{"grant_type": "password", "username": "dev", "password": password, "client_secret": secret}},
	} {
		c.form["client_id"] = "web"
		if answer, _ := p.call(t, "", at+"/token", c.form); !strings.Contains(answer, c.want) {
			t.Errorf("%s: the answer is %s, want %s", c.what, answer, c.want)
		}
	}
	ask := at + "/auth?client_id=web&response_type=code&scope=openid+offline_access&redirect_uri="
	for query, code := range map[string]string{
		back + "&code_challenge_method=S256&code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM":                          "200",
		"https://web.source.example/other&code_challenge_method=S256&code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM": "400",
		back: "302", // sent back with an error
	} {
		if answer, got := p.call(t, "", ask+query, nil); got != code {
			t.Errorf("asked with %s, the answer is %s, want %s: %s", query, got, code, answer)
		}
	}
}

func (p *pods) keycloakReady(t *testing.T, k *running) time.Duration {
	return k.until(t.Context(), 20*time.Minute, "ready", p.ready)
}

// ready is Keycloak's own verdict.
func (p *pods) ready() bool {
	_, err := p.inside("curl", "-sf", "http://127.0.0.1:"+cmp.Or(p.management, "9000")+"/health/ready")
	return err == nil
}

// siteOf is the builder of the example site with these components, collected,
// and with the recipes of no others.
func siteOf(t *testing.T, components ...string) builder {
	dir := t.TempDir()
	yaml, err := os.ReadFile("../../../examples/source/site.yaml")
	must(t, err)
	var list string
	for _, c := range components {
		list += "  - {name: " + c + ", origin: source}\n"
	}
	text := strings.Replace(string(yaml), "  - name: postgresql\n    origin: source\n", list, 1)
	must(t, os.WriteFile(filepath.Join(dir, "site.yaml"), []byte(text), 0o644))
	lock, err := os.ReadFile("../../../examples/source/site.lock")
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "site.lock"), lock, 0o644))
	h := System()
	h.Stdout, h.Stderr = io.Discard, os.Stderr
	for _, args := range [][]string{{"keys", "generate", "--development"}, {"lock"}, {"collect"}} {
		if code := Run(t.Context(), h, append([]string{"-C", dir}, args...)); code != 0 {
			t.Fatalf("holdfast %s: exit code %d", args[0], code)
		}
	}
	a := &app{Host: h, dir: dir}
	b := builder{app: a}
	b.in, err = a.load()
	must(t, err)
	b.lock, err = airgap.ReadLock(dir)
	must(t, err)
	b.store, err = a.cache()
	must(t, err)
	b.identity, err = identity()
	must(t, err)
	// The engine's images take half an hour to compile, and nothing here runs them.
	b.in.components = slices.DeleteFunc(b.in.components, func(c catalog.Component) bool { return !slices.Contains(components, c.Name) })
	used := map[string]bool{}
	for _, c := range b.in.components {
		for _, im := range c.Images {
			for _, g := range im.Source.Go {
				used[g.Recipe] = true
			}
		}
	}
	all := b.in.recipes
	b.in.recipes = nil
	for _, r := range all {
		if used[r.Name] {
			b.in.recipes = append(b.in.recipes, r)
		}
	}
	return b
}

// program compiles one program of the recipe of its name.
func (b builder) program(t *testing.T, name string) string {
	t.Helper()
	programs, err := b.compile(t.Context())
	must(t, err)
	f, err := b.store.ReadFile(programs[name+"/"+name], 1<<30)
	must(t, err)
	file := filepath.Join(t.TempDir(), name)
	must(t, os.WriteFile(file, f, 0o755))
	return file
}

// platform composes the images of components and makes their secrets.
func platform(t *testing.T, components ...string) *pods {
	return siteOf(t, components...).pods(t)
}

func (b builder) pods(t *testing.T) *pods {
	programs, err := b.compile(t.Context())
	must(t, err)
	images, err := b.images(t.Context(), programs)
	must(t, err)
	byName, digests := map[string]store.Content{}, map[string]store.Digest{}
	for _, im := range images {
		byName[im.Name], digests[im.Name] = im.Manifest, im.Manifest.Digest
	}
	p := newPods(t, b.store, byName)
	p.site, err = secrets.Ensure(p.secretsDir(), node.Secret{Namespace: "certificates", Name: "site-authority",
		Pairs: []node.Pair{{Key: "tls.key", Certificate: "tls.crt", CommonName: "site authority", Authority: true}}}, rand.Reader)
	must(t, err)
	p.ca = filepath.Join(p.dir, "ca.crt")
	must(t, os.WriteFile(p.ca, []byte(p.site["tls.crt"]), 0o644))
	for _, c := range b.in.components {
		files, err := catalog.Render(c, digests)
		must(t, err)
		p.apply(files)
		nc, err := nodeComponent(c, digests)
		must(t, err)
		p.makeSecrets(nc)
	}
	return p
}

// front answers for the public names, by TLS.
func (p *pods) front(t *testing.T) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "front"}, // curl wants an issuer's name
		DNSNames: []string{"id.source.example", "registry.source.example"},
		NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	must(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	p.trust = filepath.Join(t.TempDir(), "tls.crt")
	must(t, os.WriteFile(p.trust, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644))
	must(t, os.WriteFile(p.trust+".key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
	background(t, "ip", "netns", "exec", p.netns, "front", p.trust, p.trust+".key",
		"id.source.example=127.0.0.1:8080", "registry.source.example=127.0.0.1:5000")
}

func (p *pods) secretsDir() string { return filepath.Join(p.dir, "secrets") }

// makeSecrets does what the agent does.
func (p *pods) makeSecrets(c node.Component) {
	for _, s := range c.Secrets {
		values, err := secrets.Ensure(p.secretsDir(), s, System().Rand)
		must(p.t, err)
		p.secrets[s.Namespace+"/"+s.Name] = values
	}
}

const (
	keycloakURL = "https://id.source.example"
	otpSecret   = "holdfast-test-secret"
	password    = "correct horse battery"
)

// call asks Keycloak, with a body as JSON or as a form, and returns what it
// answered and the code.
func (p *pods) call(t *testing.T, bearer, path string, body any) (string, string) {
	t.Helper()
	args := []string{"-s", "--cacert", p.trust, "-w", "\n%{http_code}", keycloakURL + path}
	if bearer != "" {
		args = append(args, "-H", "Authorization: Bearer "+bearer)
	}
	switch body := body.(type) {
	case nil:
	case map[string]string:
		for k, v := range body {
			args = append(args, "--data-urlencode", k+"="+v)
		}
	default:
		b, err := json.Marshal(body)
		must(t, err)
		args = append(args, "-H", "Content-Type: application/json", "--data-binary", string(b))
	}
	out, err := p.inside("curl", args...)
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	i := strings.LastIndex(out, "\n")
	return out[:i], out[i+1:]
}

func (p *pods) grant(t *testing.T, realm string, form map[string]string) (token, answer string) {
	t.Helper()
	form["grant_type"] = "password"
	answer, _ = p.call(t, "", "/realms/"+realm+"/protocol/openid-connect/token", form)
	var a struct {
		Token string `json:"access_token"`
	}
	must(t, json.Unmarshal([]byte(answer), &a))
	return a.Token, answer
}

// addUser adds somebody who has set a one-time code up already.
func (p *pods) addUser(t *testing.T, name, password, group string) {
	t.Helper()
	admin, answer := p.grant(t, "master", map[string]string{"client_id": "admin-cli", "username": "admin", "password": p.secrets["keycloak/keycloak-admin"]["password"]})
	if admin == "" {
		t.Fatalf("the administrator gets no token: %s", answer)
	}
	user := map[string]any{
		"username": name, "enabled": true, "email": name + "@demo.example", "firstName": name, "lastName": name,
		"groups": []string{"/" + group},
		"credentials": []map[string]any{
			{"type": "password", "value": password, "temporary": false},
			{"type": "otp", "secretData": fmt.Sprintf(`{"value":%q}`, otpSecret), "credentialData": `{"subType":"totp","digits":6,"period":30,"algorithm":"HmacSHA1"}`},
		},
	}
	if answer, code := p.call(t, admin, "/admin/realms/site/partialImport", map[string]any{"ifResourceExists": "FAIL", "users": []any{user}}); code != "200" {
		t.Fatalf("the user is not added: %s %s", code, answer)
	}
}

// token gets one by password and one-time code, and none with less.
func (p *pods) token(t *testing.T) {
	form := func(user string) map[string]string {
		return map[string]string{"client_id": "kubernetes", "client_secret": p.secrets["keycloak/keycloak-clients"]["kubernetes"],
			"username": user, "password": password, "scope": "openid"}
	}
	if tok, answer := p.grant(t, "site", form("other")); tok != "" {
		t.Errorf("a token without a one-time code: %s", answer)
	}
	wrong := form("other")
	wrong["totp"], wrong["password"] = totp.Code(otpSecret, time.Now()), "wrong"
	if tok, answer := p.grant(t, "site", wrong); tok != "" {
		t.Errorf("a token with a wrong password: %s", answer)
	}
	full := form("dev")
	full["totp"] = totp.Code(otpSecret, time.Now())
	tok, answer := p.grant(t, "site", full)
	if tok == "" {
		t.Fatalf("no token with password and one-time code: %s", answer)
	}
	claims, err := base64.RawURLEncoding.DecodeString(strings.Split(tok, ".")[1])
	must(t, err)
	if !bytes.Contains(claims, []byte(`"groups":["developer"]`)) || !bytes.Contains(claims, []byte(`"iss":"`+keycloakURL+`/realms/site"`)) {
		t.Errorf("the token says %s", claims)
	}
}

// image pushes one, pulls it, and is refused without the right password.
func (p *pods) image(t *testing.T) {
	dir := t.TempDir()
	const name = "docker.io/library/registry:3.1.2"
	m := p.images[name]
	must(t, os.Symlink(filepath.Join(p.store.Dir(), "blobs"), filepath.Join(dir, "blobs")))
	must(t, os.WriteFile(filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644))
	index := fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":%q,"size":%d,"annotations":{"org.opencontainers.image.ref.name":"it"}}]}`, m.Digest, m.Size)
	must(t, os.WriteFile(filepath.Join(dir, "index.json"), []byte(index), 0o644))
	const there = "docker://registry.source.example/team/app:1"
	skopeo := func(args ...string) (string, error) {
		return p.inside("env", append([]string{"SSL_CERT_FILE=" + p.trust, "skopeo"}, args...)...)
	}
	push := func(creds string) (string, error) {
		return skopeo("copy", "--preserve-digests", "--dest-creds", creds, "oci:"+dir+":it", there)
	}
	for _, bad := range []string{"other:wrong", "nobody:" + password, "audit:" + password} {
		if out, err := push(bad); err == nil {
			t.Errorf("pushed as %s: %s", bad, out)
		}
	}
	if out, err := push("dev:" + password); err != nil {
		t.Fatalf("cannot push: %v: %s", err, out)
	}
	if out, err := skopeo("inspect", there); err == nil {
		t.Errorf("seen without a password: %s", out)
	}
	if out, err := skopeo("inspect", "--creds", "audit:"+password, there); err == nil {
		t.Errorf("seen by an auditor: %s", out)
	}
	back := filepath.Join(t.TempDir(), "back")
	if out, err := skopeo("copy", "--src-creds", "dev:"+password, there, "dir:"+back); err != nil {
		t.Fatalf("cannot pull: %v: %s", err, out)
	}
	got, err := os.ReadFile(filepath.Join(back, "manifest.json"))
	must(t, err)
	if store.FromBytes(got) != m.Digest {
		t.Error("what was pulled is not what was pushed")
	}
}
