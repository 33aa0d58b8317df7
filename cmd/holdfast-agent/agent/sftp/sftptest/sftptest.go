// Package sftptest is a server that files go to, for tests.
package sftptest

import (
	"bytes"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// sftpServer is OpenSSH's, which make setup installs.
const sftpServer = "/usr/lib/openssh/sftp-server"

// Serve lets in whoever has the key letIn, to OpenSSH's SFTP server, until the
// test ends, and returns its address.
func Serve(t testing.TB, host ssh.Signer, letIn ssh.PublicKey) string {
	t.Helper()
	if _, err := os.Stat(sftpServer); err != nil {
		t.Skipf("needs OpenSSH's sftp-server: %v", err)
	}
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, k ssh.PublicKey) (*ssh.Permissions, error) {
		if bytes.Equal(k.Marshal(), letIn.Marshal()) {
			return nil, nil
		}
		return nil, os.ErrPermission
	}}
	config.AddHostKey(host)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go session(c, config)
		}
	}()
	return l.Addr().String()
}

func session(c net.Conn, config *ssh.ServerConfig) {
	defer c.Close()
	_, channels, requests, err := ssh.NewServerConn(c, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for n := range channels {
		ch, requests, err := n.Accept()
		if err != nil {
			return
		}
		go func() {
			for r := range requests {
				ok := r.Type == "subsystem" && strings.HasSuffix(string(r.Payload), "sftp")
				_ = r.Reply(ok, nil)
				if !ok {
					continue
				}
				p := exec.Command(sftpServer)
				p.Stdout, p.Stderr = ch, io.Discard
				in, err := p.StdinPipe()
				if err == nil {
					err = p.Start()
				}
				if err != nil {
					ch.Close()
					return
				}
				go func() { _, _ = io.Copy(in, ch); in.Close() }()
				go func() { _ = p.Wait(); ch.Close() }()
			}
		}()
	}
}
