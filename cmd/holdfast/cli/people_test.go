package cli

import (
	"encoding/xml"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/qemu-tests/totp"
)

// TestPeople runs the sign-on and the object storage from their images by their
// manifests: people get credentials for the storage by the token that password
// and one-time code got them, and with those at their own objects alone. The
// storage starts before the sign-on and does without it.
func TestPeople(t *testing.T) {
	runsPods(t)
	compilesLong(t, "MinIO")
	p := platform(t, "postgresql", "keycloak", "minio")
	p.certificate(t, "postgresql", "postgresql")
	p.certificate(t, "minio", "minio")
	// Here both are in one network, and the storage has its port.
	p.management = "9090"
	p.setEnv("Deployment", "keycloak", "KC_HTTP_MANAGEMENT_PORT", p.management)
	minio := p.objectsReady(t)
	p.front(t)
	p.database(t)
	p.hook(t, "postgresql", "database-keycloak")
	keycloak := p.start("Deployment", "keycloak", "keycloak")
	t.Logf("Keycloak's first start: %v", p.keycloakReady(t, keycloak))
	for range 2 { // as it is after an update
		p.hook(t, "keycloak", "client-minio")
		p.hook(t, "minio", "people-minio")
	}
	for name, group := range map[string]string{"dev": "developer", "other": "developer", "more": "developer", "boss": "platform-admin", "eve": "auditor"} {
		p.addUser(t, name, password, group)
	}
	said := minio.said()
	dev, other, boss := p.credentials(t, "dev"), p.credentials(t, "other"), p.credentials(t, "boss")
	p.wantS3(t, dev, "PUT", "/people/dev/it", "what dev keeps", "200", "")
	p.wantS3(t, dev, "GET", "/people/dev/it", "", "200", "what dev keeps")
	p.wantS3(t, dev, "GET", "/people/?prefix=dev%2F", "", "200", "<Key>dev/it</Key>")
	p.wantS3(t, boss, "GET", "/people/dev/it", "", "200", "what dev keeps")
	p.wantS3(t, dev, "PUT", "/people/other/it", "x", "403", "AccessDenied")
	p.wantS3(t, other, "GET", "/people/dev/it", "", "403", "AccessDenied")
	p.wantS3(t, other, "GET", "/people/", "", "403", "AccessDenied")
	p.wantS3(t, dev, "PUT", "/another", "", "403", "AccessDenied")
	p.wantS3(t, s3User{name: dev.name, secret: dev.secret}, "GET", "/people/dev/it", "", "403", "InvalidTokenId")

	for what, c := range map[string]struct{ token, says string }{
		"an auditor":     {p.tokenFor(t, "eve", map[string]string{"client_id": "minio"}), "are defined, credentials will not be generated"},
		"another client": {p.tokenFor(t, "more", map[string]string{"client_id": "kubernetes", "client_secret": p.secrets["keycloak/keycloak-clients"]["kubernetes"]}), "must match configured OpenID Client ID"},
		"nobody":         {"e30.e30.e30", "InvalidParameterValue"},
	} {
		if out := p.assume(t, c.token); !strings.Contains(out, c.says) || strings.Contains(out, "SecretAccessKey") {
			t.Errorf("%s gets %s", what, out)
		}
	}

	// The sign-on is away, and the storage starts all the same.
	keycloak.stop()
	minio.stop()
	said += minio.said()
	minio = p.objectsReady(t)
	p.wantS3(t, dev, "GET", "/people/dev/it", "", "200", "what dev keeps")
	said += minio.said()
	if strings.Contains(said, dev.secret) || strings.Contains(said, dev.session) {
		t.Error("credentials are in the log")
	}
}

// hook runs a Job to its end.
func (p *pods) hook(t *testing.T, namespace, name string) {
	t.Helper()
	h := p.start("Job", namespace, name)
	if err := h.end(5 * time.Minute); err != nil {
		t.Fatalf("%v\n%s", err, h.said())
	}
}

// tokenFor is somebody's, by password and one-time code.
func (p *pods) tokenFor(t *testing.T, user string, client map[string]string) string {
	t.Helper()
	client["username"], client["password"], client["scope"], client["totp"] = user, password, "openid", totp.Code(otpSecret, time.Now())
	token, answer := p.grant(t, "site", client)
	if token == "" {
		t.Fatalf("%s gets no token: %s", user, answer)
	}
	return token
}

// assume asks the storage for credentials.
func (p *pods) assume(t *testing.T, token string) string {
	t.Helper()
	out, err := p.inside("curl", "-s", "--cacert", p.ca, "--data-urlencode", "Action=AssumeRoleWithWebIdentity", "--data-urlencode", "Version=2011-06-15",
		"--data-urlencode", "DurationSeconds=3600", "--data-urlencode", "WebIdentityToken="+token, objectsURL+"/")
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return out
}

func (p *pods) credentials(t *testing.T, user string) s3User {
	t.Helper()
	out := p.assume(t, p.tokenFor(t, user, map[string]string{"client_id": "minio"}))
	var answer struct {
		Result struct {
			Credentials struct{ AccessKeyId, SecretAccessKey, SessionToken string }
		} `xml:"AssumeRoleWithWebIdentityResult"`
	}
	must(t, xml.Unmarshal([]byte(out), &answer))
	c := answer.Result.Credentials
	if c.AccessKeyId == "" || c.SessionToken == "" {
		t.Fatalf("%s gets no credentials: %s", user, out)
	}
	return s3User{c.AccessKeyId, c.SecretAccessKey, c.SessionToken}
}
