package sftp_test

import (
	"bytes"
	"crypto/rand"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/sftp"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/sftp/sftptest"
)

func key(t *testing.T) (ssh.Signer, string) {
	t.Helper()
	k, public, err := sftp.Key(filepath.Join(t.TempDir(), "made", "key"), "node@demo", rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k, public
}

// A file is written, read back and named, on the server of OpenSSH.
func TestServer(t *testing.T) {
	host, hostLine := key(t)
	k, public := key(t)
	if !strings.HasPrefix(public, "ssh-ed25519 ") || !strings.HasSuffix(public, " node@demo") {
		t.Errorf("the public key is %q", public)
	}
	at, dir := sftptest.Serve(t, host, k.PublicKey()), t.TempDir()
	d, err := sftp.Dial(t.Context(), sftp.Server{URL: "sftp://node@" + at + dir, HostKeys: []string{hostLine}}, k)
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 9<<20)
	rand.Read(want)
	for range 2 { // a second one takes its place
		f, err := d.Create("a.part")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(want); err != nil {
			t.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if err := d.Rename("a.part", "a"); err != nil {
			t.Fatal(err)
		}
	}
	r, err := d.Open("a")
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, want) || r.Close() != nil {
		t.Errorf("read %d bytes back, %v", len(got), err)
	}
	if names, err := d.List(); err != nil || !slices.Equal(names, []string{"a"}) {
		t.Errorf("there are %q, %v", names, err)
	}
	if err := d.Remove("a"); err != nil {
		t.Error(err)
	}
	if names, err := d.List(); err != nil || len(names) != 0 {
		t.Errorf("there are %q, %v", names, err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// The key of a node stays.
func TestKey(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	_, first, err := sftp.Key(file, "node@demo", rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, second, err := sftp.Key(file, "node@demo", rand.Reader); err != nil || second != first {
		t.Errorf("%q, then %q, %v", first, second, err)
	}
	if fi, err := os.Stat(file); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
	if err := os.WriteFile(file, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := sftp.Key(file, "node@demo", rand.Reader); err == nil {
		t.Error("a damaged key is replaced, and the server would let nobody in")
	}
}

func TestRefused(t *testing.T) {
	host, hostLine := key(t)
	k, _ := key(t)
	other, otherLine := key(t)
	at := sftptest.Serve(t, host, k.PublicKey())
	for _, c := range []struct {
		name, url string
		hosts     []string
		key       ssh.Signer
		want      []string
	}{
		{"another server", "sftp://node@" + at + "/", []string{otherLine}, k, []string{"which the release does not name", strings.Fields(hostLine)[1], "hint: "}},
		{"another node", "sftp://node@" + at + "/", []string{hostLine}, other, []string{"hint: the server must let in this node's key"}},
		{"nobody there", "sftp://node@127.0.0.1:1/", []string{hostLine}, k, []string{"refused"}},
		{"no host key", "sftp://node@" + at + "/", nil, k, []string{"names no host key"}},
		{"no key at all", "sftp://node@" + at + "/", []string{"AAAA"}, k, []string{`host key "AAAA"`}},
		{"no URL", "sftp://" + at + "/", []string{hostLine}, k, []string{"want sftp://"}},
	} {
		_, err := sftp.Dial(t.Context(), sftp.Server{URL: c.url, HostKeys: c.hosts}, c.key)
		if err == nil {
			t.Errorf("%s: no error", c.name)
			continue
		}
		for _, w := range append(c.want, c.url) {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: no %q in %v", c.name, w, err)
			}
		}
	}
	d, err := sftp.Dial(t.Context(), sftp.Server{URL: "sftp://node@" + at + t.TempDir() + "/missing", HostKeys: []string{hostLine}}, k)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := d.List(); err == nil || !strings.Contains(err.Error(), "/missing on "+at) {
		t.Errorf("a directory that is not there: %v", err)
	}
}
