// Package s3test is a server with buckets, for tests: a library in this process,
// or MinIO. Both speak TLS with a certificate of an authority of their own.
package s3test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/rclone/gofakes3"
	"github.com/rclone/gofakes3/s3mem"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/s3"
)

// What the server lets anybody in by.
const (
	AccessKey = "AKHOLDFAST"
	Secret    = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYtestonly"
)

// partSize is the least that servers take, for tests to be quick.
const partSize = 5 << 20

// Server is one that runs on the loopback until the test ends.
type Server struct {
	Address   string // 127.0.0.1:PORT
	Authority string // the certificate that vouches for it, PEM
	Locks     bool   // it has buckets that keep what is removed

	cert      tls.Certificate
	pool      *x509.CertPool
	refused   atomic.Pointer[func(*http.Request) bool]
	begin     func() error
	end       func()
	admin     *minio.Client
	transport *http.Transport
}

// Library serves from memory.
func Library(t testing.TB) *Server {
	t.Helper()
	s := newServer(t)
	handler := gofakes3.New(s3mem.New(), gofakes3.WithV4Auth(map[string]string{AccessKey: Secret})).Server()
	guarded := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f := s.refused.Load(); f != nil && (*f)(r) {
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, "<Error><Code>AccessDenied</Code><Message>Access Denied.</Message></Error>")
			return
		}
		handler.ServeHTTP(w, r)
	})
	var running *http.Server
	s.begin = func() error {
		l, err := net.Listen("tcp", s.Address)
		if err != nil {
			return err
		}
		running = &http.Server{Handler: guarded, ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0)}
		go running.Serve(tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{s.cert}}))
		return nil
	}
	s.end = func() {
		if running != nil {
			running.Close()
		}
	}
	s.Start(t)
	return s
}

// Program runs MinIO, which keeps what it has in a directory below data.
func Program(t testing.TB, minio, data string) *Server {
	t.Helper()
	var said bytes.Buffer
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("MinIO said:\n%s", said.String())
		}
	})
	dir := t.TempDir() // which is removed after the server ended
	s := newServer(t)
	s.Locks = true
	certs := filepath.Join(dir, "certs")
	key, err := x509.MarshalPKCS8PrivateKey(s.cert.PrivateKey)
	if err == nil {
		err = os.Mkdir(certs, 0o700)
	}
	for name, block := range map[string]*pem.Block{"public.crt": {Type: "CERTIFICATE", Bytes: s.cert.Certificate[0]}, "private.key": {Type: "PRIVATE KEY", Bytes: key}} {
		if err == nil {
			err = os.WriteFile(filepath.Join(certs, name), pem.EncodeToMemory(block), 0o600)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	var p *exec.Cmd
	s.begin = func() error {
		p = exec.Command(minio, "server", "--quiet", "--address", s.Address, "--certs-dir", certs, filepath.Join(data, "data"))
		p.Env = append(os.Environ(), "MINIO_ROOT_USER="+AccessKey, "MINIO_ROOT_PASSWORD="+Secret, "MINIO_BROWSER=off", "MINIO_UPDATE=off")
		p.Stdout, p.Stderr = &said, &said
		return p.Start()
	}
	s.end = func() {
		if p == nil || p.Process == nil {
			return
		}
		_ = p.Process.Kill() // as when power goes
		_ = p.Wait()
	}
	s.Start(t)
	return s
}

func newServer(t testing.TB) *Server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Address: l.Addr().String(), pool: x509.NewCertPool()}
	l.Close()
	s.Authority, s.cert = Certificates(t)
	s.pool.AppendCertsFromPEM([]byte(s.Authority))
	s.transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.pool}}
	s.admin, err = minio.New(s.Address, &minio.Options{Creds: credentials.NewStaticV4(AccessKey, Secret, ""), Secure: true, Region: "us-east-1", Transport: s.transport, MaxRetries: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Stop() })
	return s
}

// Start starts a server that was stopped, with what it had, and waits until it
// answers.
func (s *Server) Start(t testing.TB) {
	t.Helper()
	if err := s.begin(); err != nil {
		t.Fatal(err)
	}
	var err error
	for range 600 {
		if _, err = s.admin.ListBuckets(t.Context()); err == nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("the server does not start: %v", err)
}

// Stop ends the server at once, whatever it does.
func (s *Server) Stop() {
	s.transport.CloseIdleConnections()
	if s.end != nil {
		s.end()
	}
}

// Refuse has Library allow no requests of which f says so.
func (s *Server) Refuse(f func(*http.Request) bool) { s.refused.Store(&f) }

// MakeBucket makes a bucket, and has it keep what is removed if lock is set.
func (s *Server) MakeBucket(t testing.TB, name string, lock bool) {
	t.Helper()
	if err := s.admin.MakeBucket(t.Context(), name, minio.MakeBucketOptions{ObjectLocking: lock}); err != nil {
		t.Fatal(err)
	}
	if lock {
		mode, days, unit := minio.Compliance, uint(1), minio.Days
		if err := s.admin.SetBucketObjectLockConfig(t.Context(), name, &mode, &days, &unit); err != nil {
			t.Fatal(err)
		}
	}
}

// Uploads counts what is half written under a name.
func (s *Server) Uploads(t testing.TB, bucket, key string) int {
	t.Helper()
	n := 0
	for u := range s.admin.ListIncompleteUploads(t.Context(), bucket, key, true) {
		if u.Err != nil {
			t.Fatal(u.Err)
		}
		n++
	}
	return n
}

// Target is a place on the server: a bucket, and maybe a prefix.
func (s *Server) Target(place string) s3.Target {
	return s3.Target{URL: "s3://" + s.Address + "/" + place, Authority: s.Authority, PartSize: partSize}
}

// File is a file of credentials.
func File(accessKey, secret string) string {
	return "[default]\naws_access_key_id = " + accessKey + "\naws_secret_access_key = " + secret + "\n"
}

// Credentials are those of File.
func Credentials(t testing.TB, accessKey, secret string) s3.Credentials {
	t.Helper()
	c, err := s3.Parse(strings.NewReader(File(accessKey, secret)))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Certificates makes an authority (PEM), and a certificate of it for 127.0.0.1.
func Certificates(t testing.TB) (authority string, cert tls.Certificate) {
	t.Helper()
	fatal := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	authorityKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	fatal(err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	fatal(err)
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "buckets"},
		NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, authorityKey.Public(), authorityKey)
	fatal(err)
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), authorityKey)
	fatal(err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER})), tls.Certificate{Certificate: [][]byte{leafDER}, PrivateKey: key}
}
