package catalog

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// TestHarborStart runs the real program, which becomes one that says its
// environment.
func TestHarborStart(t *testing.T) {
	program := buildRecipe(t, "harbor-start")
	dir := t.TempDir()
	const secret = "0123456789abcdefSECRET"
	put(t, dir+"/secret", secret+"\n", 0o600)
	put(t, dir+"/short", "x", 0o600)
	put(t, dir+"/quote", `0123456789abcdef"`, 0o600)
	put(t, dir+"/say", "#!/bin/sh\nenv\necho \"became $*\"\n", 0o755)
	late, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := late.Addr().String()
	late.Close()

	run := func(env ...string) (string, error) {
		cmd := exec.Command(program, dir+"/say", "-c", "x")
		cmd.Env = append([]string{"PATH=/usr/bin:/bin"}, env...)
		b, err := cmd.CombinedOutput()
		return string(b), err
	}
	began := time.Now()
	go func() {
		time.Sleep(1500 * time.Millisecond)
		l, err := net.Listen("tcp", address)
		if err == nil {
			defer l.Close()
			time.Sleep(20 * time.Second)
		}
	}()
	out, err := run("URL=rediss://:{file:"+dir+"/secret}@valkey:6379/0", `SETTINGS={"a": {"b": "{file:`+dir+`/secret}"}}`,
		"WAIT_FOR="+address, "PASSWORDS="+dir+"/passwd", "PASSWORDS_USER=harbor", "PASSWORDS_PASSWORD={file:"+dir+"/secret}")
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{"URL=rediss://:" + secret + "@valkey:6379/0\n", `SETTINGS={"a": {"b": "` + secret + `"}}`, "became -c x"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %s in %s", want, out)
		}
	}
	if strings.Contains(out, "PASSWORDS") || time.Since(began) < time.Second {
		t.Errorf("after %v: %s", time.Since(began), out)
	}
	b, err := os.ReadFile(dir + "/passwd")
	if err != nil {
		t.Fatal(err)
	}
	hash, ok := strings.CutPrefix(strings.TrimSpace(string(b)), "harbor:")
	if err := bcrypt.CompareHashAndPassword([]byte(hash), []byte(secret)); !ok || err != nil {
		t.Errorf("the file of passwords has %s: %v", b, err)
	}

	// The key that tokens are signed with, in the form that Harbor reads.
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	put(t, dir+"/tls.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), 0o600)
	out, err = run("TOKEN_KEY="+dir+"/tls.key", "TOKEN_PRIVATE_KEY_PATH="+dir+"/token.key")
	if err != nil || strings.Contains(out, "TOKEN_KEY") || !strings.Contains(out, "TOKEN_PRIVATE_KEY_PATH="+dir+"/token.key\n") {
		t.Errorf("%v: %s", err, out)
	}
	b, err = os.ReadFile(dir + "/token.key")
	if err != nil {
		t.Fatal(err)
	}
	if block, _ := pem.Decode(b); block == nil || block.Type != "RSA PRIVATE KEY" {
		t.Errorf("the key is %s", b[:30])
	} else if same, err := x509.ParsePKCS1PrivateKey(block.Bytes); err != nil || !same.Equal(key) {
		t.Errorf("another key: %v", err)
	}

	// All faults at once, and nothing is started.
	out, err = run("A={file:"+dir+"/short}", "B={file:"+dir+"/gone}", "C={file:"+dir+"/quote}")
	for _, want := range []string{"A: " + dir + "/short does not hold 16", "B: open " + dir + "/gone", "C: " + dir + "/quote does not hold"} {
		if err == nil || !strings.Contains(out, want) {
			t.Errorf("%v, no %s in %s", err, want, out)
		}
	}
	if strings.Contains(out, "became") {
		t.Error("it went on")
	}
}
