// Package distribution runs the CNCF Distribution registry on the loopback,
// for tests: over TLS with a certificate authority of its own, behind a user
// and a password, and behind a proxy that injects faults.
package distribution

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Who may read and write.
const (
	User     = "holdfast"
	Password = "correct horse"

	htpasswd = User + ":$2y$05$holdfastholdfastholdfO4p0bUnY.q5/96zh/tjx0KkgnAl1FJOq\n" // bcrypt
)

// Find is the program's place: $DOCKER_REGISTRY, the path, or what
// host-setup.sh --test fetched.
func Find() (string, error) {
	if p := os.Getenv("DOCKER_REGISTRY"); p != "" {
		return p, nil
	}
	if p, err := exec.LookPath("docker-registry"); err == nil {
		return p, nil
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		p := filepath.Join(dir, ".cache", "tools", "usr", "bin", "docker-registry")
		if _, err := os.Stat(p); err == nil {
			return p, nil
		}
	}
	return "", errors.New("docker-registry is not here: run qemu-tests/host-setup.sh --test, or set DOCKER_REGISTRY")
}

// Registry is one that runs.
type Registry struct {
	Addr string // 127.0.0.1:PORT
	CA   string // file with the certificate that vouches for it, PEM

	dir  string
	cert tls.Certificate
	cmd  *exec.Cmd
	log  bytes.Buffer
}

// Start runs the registry with its blobs below dir.
func Start(program, dir string) (*Registry, error) {
	r := &Registry{dir: dir, CA: filepath.Join(dir, "ca.pem")}
	if err := r.certificates(); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r.Addr = l.Addr().String()
	if err := l.Close(); err != nil {
		return nil, err
	}
	config := fmt.Sprintf(`version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: %q, maxthreads: 100}}
http: {addr: %q, tls: {certificate: %q, key: %q}}
auth: {htpasswd: {realm: test, path: %q}}
`, filepath.Join(dir, "data"), r.Addr, filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), filepath.Join(dir, "htpasswd"))
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "htpasswd"), []byte(htpasswd), 0o600),
		os.WriteFile(filepath.Join(dir, "config.yml"), []byte(config), 0o600)); err != nil {
		return nil, err
	}
	r.cmd = exec.Command(program, "serve", filepath.Join(dir, "config.yml"))
	r.cmd.Stdout, r.cmd.Stderr = &r.log, &r.log
	if err := r.cmd.Start(); err != nil {
		return nil, err
	}
	for range 200 {
		if c, err := net.DialTimeout("tcp", r.Addr, time.Second); err == nil {
			return r, c.Close()
		}
		time.Sleep(50 * time.Millisecond)
	}
	return nil, errors.Join(fmt.Errorf("the registry does not start:\n%s", r.log.String()), r.Stop())
}

// Stop ends it.
func (r *Registry) Stop() error {
	if r.cmd == nil {
		return nil
	}
	err := r.cmd.Process.Kill()
	_ = r.cmd.Wait() // it was killed, and says so
	r.cmd = nil
	return err
}

// certificates makes an authority and a certificate for 127.0.0.1.
func (r *Registry) certificates() error {
	if err := os.MkdirAll(r.dir, 0o755); err != nil {
		return err
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "registry"},
		NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return err
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	r.cert = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	write := func(name, kind string, der []byte) error {
		return os.WriteFile(filepath.Join(r.dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
	}
	return errors.Join(write("ca.pem", "CERTIFICATE", caDER), write("cert.pem", "CERTIFICATE", der), write("key.pem", "PRIVATE KEY", keyDER))
}

// transport trusts the registry's authority.
func (r *Registry) transport() (*http.Transport, error) {
	b, err := os.ReadFile(r.CA)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(b)
	return &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, MaxIdleConnsPerHost: 16}, nil
}

// Put pushes an image, or an index with all its images, as REPOSITORY:TAG.
func (r *Registry) Put(repositoryTag string, t remote.Taggable) error {
	ref, err := name.NewTag(r.Addr + "/" + repositoryTag)
	if err != nil {
		return err
	}
	rt, err := r.transport()
	if err != nil {
		return err
	}
	opts := []remote.Option{remote.WithTransport(rt), remote.WithAuth(&authn.Basic{Username: User, Password: Password})}
	switch t := t.(type) {
	case v1.ImageIndex:
		return remote.WriteIndex(ref, t, opts...)
	case v1.Image:
		return remote.Write(ref, t, opts...)
	}
	return fmt.Errorf("cannot push a %T", t)
}

// Login writes a Docker configuration with the password for the registries
// given into dir.
func Login(dir string, addrs ...string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	auth := base64.StdEncoding.EncodeToString([]byte(User + ":" + Password))
	b := []byte(`{"auths":{`)
	for i, a := range addrs {
		if i > 0 {
			b = append(b, ',')
		}
		b = fmt.Appendf(b, `%q:{"auth":%q}`, a, auth)
	}
	return os.WriteFile(filepath.Join(dir, "config.json"), append(b, "}}\n"...), 0o600)
}
