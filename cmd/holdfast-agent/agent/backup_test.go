package agent_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"holdfast.dev/holdfast/bundles/backup"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/sftp"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/sftp/sftptest"
)

const stick = "run/holdfast/backup/" // mounting is nothing in these tests

// siteWith is a machine with a stick for backups, of a site with that release
// key and those recovery keys.
func siteWith(t *testing.T, k *ecdsa.PrivateKey, recovery []string) *box {
	t.Helper()
	b := newBox(t)
	b.keys = recovery
	b.trust(k)
	b.seed(k, mac)
	b.kubeadm = func([]string) error { b.write("etc/kubernetes/admin.conf", kubeconfig); return nil }
	b.write("dev/disk/by-label/HF-BACKUP", "")
	if err := os.MkdirAll(filepath.Join(b.Root, stick), 0o755); err != nil {
		t.Fatal(err)
	}
	b.typed = make(chan string, 1)
	return b
}

// recoveryKeys makes a pair; private is its file.
func recoveryKeys(t *testing.T) (private string, public []string) {
	t.Helper()
	dir := t.TempDir()
	if err := backup.GenerateKey(dir); err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile(filepath.Join(dir, backup.PublicKeys))
	if err != nil {
		t.Fatal(err)
	}
	if public, err = backup.Lines(doc); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, backup.PrivateKey), public
}

// backUp has the agent make a backup, and returns what it prints and its file.
func (b *box) backUp() (code int, out, file string) {
	b.t.Helper()
	var w bytes.Buffer
	b.startAnd("waiting for the API server since 1", func() {
		code = agent.Main(b.t.Context(), []string{"backup"}, func(string) agent.Host { return b.Host }, nil, &w, &w)
	})
	found, err := filepath.Glob(filepath.Join(b.Root, stick, "*"))
	if err != nil {
		b.t.Fatal(err)
	}
	if len(found) > 1 || len(found) == 1 && filepath.Ext(found[0]) != backup.Suffix {
		b.t.Errorf("on the stick: %q", found)
	}
	return code, w.String(), strings.Join(found, "")
}

var codeForm = regexp.MustCompile(`[0-9a-f]{4}(-[0-9a-f]{4}){4}`)

// TestBackup: a site is written onto a stick and comes back on an empty disk,
// with the release, the backup and the recovery key alone.
func TestBackup(t *testing.T) {
	k := key(t)
	private, public := recoveryKeys(t)
	a := siteWith(t, k, public)
	state := map[string]string{
		"var/lib/holdfast/volumes/pvc-1/rows": "kept", "var/lib/etcd/member/snap/db": "objects",
		"etc/kubernetes/pki/ca.key": "authority", "var/lib/kubelet/pki/kubelet.crt": "node", "var/lib/holdfast/kubeadm.done": "done\n",
	}
	for name, data := range state {
		a.write(name, data)
	}
	a.write("var/lib/holdfast/store/blobs/sha256/aa", "of a release")
	exit, out, file := a.backUp()
	code := codeForm.FindString(out)
	if exit != 0 || code == "" || file == "" {
		t.Fatalf("exit code %d, %q\n%s", exit, out, a.said())
	}
	if s := a.status(); s.Backup == nil || s.Backup.Code != code {
		t.Errorf("the status has backup %+v, want %s", s.Backup, code)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	secret := a.read("var/lib/holdfast/secrets/db_admin.json")
	if bytes.Contains(data, []byte("authority")) || bytes.Contains(data, []byte(secret)) {
		t.Error("the backup shows secrets")
	}
	if _, err := os.Stat(filepath.Join(a.Root, "var/lib/holdfast/backup.new")); err == nil {
		t.Error("its copies are still there")
	}
	// What it was, it also says after the next start.
	a.start("waiting for the API server since 1")
	if s := a.status(); s.Backup == nil || s.Backup.Code != code {
		t.Errorf("after a restart the status has backup %+v", s.Backup)
	}

	keyData, err := os.ReadFile(private)
	if err != nil {
		t.Fatal(err)
	}
	b := siteWith(t, k, public)
	b.write(stick+filepath.Base(file), string(data))
	b.write(stick+"recovery.key", string(keyData))
	b.startAnd(`type "restore `+code+`"`, func() {
		if _, err := os.Stat(filepath.Join(b.Root, "var/lib/etcd/member")); err == nil {
			t.Error("restored before it was confirmed")
		}
	})
	b.typed <- "restore 0000-0000-0000-0000-0000"
	b.start(`that is not "restore ` + code + `"`)
	b.typed <- "restore " + code
	b.start("waiting for the API server since 1")
	if !strings.Contains(b.said(), "RESTORED: demo, as it was at ") {
		t.Errorf("said:\n%s", b.said())
	}
	for name, data := range state {
		if got := b.read(name); got != data {
			t.Errorf("%s is %q, want %q", name, got, data)
		}
	}
	if got := b.read("var/lib/holdfast/secrets/db_admin.json"); got != secret {
		t.Error("the secrets are others")
	}
	if !strings.Contains(b.read("var/lib/holdfast/audit.log"), code) {
		t.Error("the audit log does not tell of it")
	}
	for _, name := range []string{"var/lib/holdfast/restoring", "var/lib/holdfast/store/blobs/sha256/aa"} {
		if _, err := os.Stat(filepath.Join(b.Root, name)); err == nil {
			t.Errorf("%s is there", name)
		}
	}
}

// TestRestoreRefused: what does not fit is told, all of it, and nothing starts
// from it.
func TestRestoreRefused(t *testing.T) {
	k := key(t)
	private, public := recoveryKeys(t)
	a := siteWith(t, k, public)
	large := make([]byte, 1<<20)
	rand.Read(large)
	a.write("var/lib/holdfast/volumes/pvc-1/rows", string(large))
	_, out, file := a.backUp()
	code := codeForm.FindString(out)
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	keyData, err := os.ReadFile(private)
	if err != nil {
		t.Fatal(err)
	}
	other, _ := recoveryKeys(t)
	otherKey, err := os.ReadFile(other)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(b *box)
		says   string
	}{
		"no key":       {func(b *box) { b.remove(stick + "recovery.key") }, "hint: put the site's recovery key beside it"},
		"another key":  {func(b *box) { b.write(stick+"recovery.key", string(otherKey)) }, "it is not encrypted to this recovery key"},
		"two":          {func(b *box) { b.write(stick+"b.holdfast-backup", string(data)) }, "cannot choose a backup: the stick has 2"},
		"cut":          {func(b *box) { b.write(stick+filepath.Base(file), string(data[:100])) }, "the backup is refused"},
		"other engine": {func(b *box) { b.engine["version"] = "v1.35.1"; b.seed(k, mac) }, "cannot restore this backup: "},
		"interrupted":  {func(b *box) { b.write("var/lib/holdfast/restoring", code); b.remove("dev/disk/by-label/HF-BACKUP") }, "a restore did not come to its end, so nothing of this site may start"},
	} {
		t.Run(name, func(t *testing.T) {
			b := siteWith(t, k, public)
			b.write(stick+filepath.Base(file), string(data))
			b.write(stick+"recovery.key", string(keyData))
			c.change(b)
			b.start("FAULT: cannot restore a backup")
			if !strings.Contains(b.said(), c.says) {
				t.Errorf("said:\n%s", b.said())
			}
			for _, name := range []string{"var/lib/holdfast/secrets", "etc/kubernetes/admin.conf"} {
				if _, err := os.Stat(filepath.Join(b.Root, name)); err == nil {
					t.Errorf("%s was made", name)
				}
			}
		})
	}
	t.Run("cut at the end", func(t *testing.T) {
		b := siteWith(t, k, public)
		short := data[:len(data)-1]
		b.write(stick+filepath.Base(file), string(short))
		b.write(stick+"recovery.key", string(keyData))
		b.startAnd(`type "restore `, func() {})
		b.typed <- "restore " + codeForm.FindString(b.said())
		b.start("FAULT: cannot restore a backup")
		// It was confirmed, and is half there: it stays so until one is whole.
		b.read("var/lib/holdfast/restoring")
		if _, err := os.Stat(filepath.Join(b.Root, "etc/kubernetes/admin.conf")); err == nil {
			t.Error("the site was started")
		}
	})
	t.Run("interrupted and taken out", func(t *testing.T) {
		b := siteWith(t, k, public)
		b.write(stick+filepath.Base(file), string(data))
		b.write(stick+"recovery.key", string(keyData))
		b.write("var/lib/holdfast/restoring", code)
		b.startAnd(`type "restore `, func() {
			b.remove("dev/disk/by-label/HF-BACKUP")
		})
		b.start("nothing of this site may start")
	})
	t.Run("taken out", func(t *testing.T) {
		b := siteWith(t, k, public)
		b.write(stick+filepath.Base(file), string(data))
		b.write(stick+"recovery.key", string(keyData))
		b.startAnd(`type "restore `, func() { b.remove("dev/disk/by-label/HF-BACKUP") })
		b.start("waiting for the API server since 1")
	})
}

// TestBackupServer: a site is written to a server, once that lets its node in.
func TestBackupServer(t *testing.T) {
	host, hostLine, err := sftp.Key(filepath.Join(t.TempDir(), "key"), "", rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, public := recoveryKeys(t)
	dir := t.TempDir()
	b := siteWith(t, key(t), public)
	b.remove("dev/disk/by-label/HF-BACKUP")
	node, nodeLine, err := sftp.Key(filepath.Join(b.Root, "var/lib/holdfast/backup-key/key"), "holdfast-backup@demo", rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	to := "sftp://site@" + sftptest.Serve(t, host, node.PublicKey()) + dir
	b.backups = map[string]any{"to": to, "hostKeys": []string{hostLine}}
	k := key(t)
	b.trust(k)
	b.seed(k, mac)
	backUp := func() (code int, out string) {
		var w bytes.Buffer
		b.console.Reset()
		b.startAnd("waiting for the API server since 1", func() {
			code = agent.Main(t.Context(), []string{"backup", "--server"}, func(string) agent.Host { return b.Host }, nil, &w, &w)
		})
		return code, w.String()
	}
	// What an earlier one left, and others, stay where nobody keeps count.
	for _, name := range []string{"demo-1-20260101T000000Z.holdfast-backup.part", "letters"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	exit, out := backUp()
	code := codeForm.FindString(out)
	if exit != 0 || code == "" {
		t.Fatalf("exit code %d, %q\n%s", exit, out, b.said())
	}
	found, err := filepath.Glob(filepath.Join(dir, "*.holdfast-backup"))
	if err != nil || len(found) != 1 {
		t.Fatalf("on the server: %q, %v", found, err)
	}
	f, err := os.Open(found[0])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, err := backup.CodeOf(f); err != nil || got != code {
		t.Errorf("the server has %s, %v, want %s", got, err, code)
	}
	if s := b.status(); s.BackupServer == nil || s.BackupServer.URL != to || s.BackupServer.Key != nodeLine || s.Backup == nil || s.Backup.Code != code {
		t.Errorf("the status has %+v, %+v", s.BackupServer, s.Backup)
	}
	if !strings.Contains(b.said(), "must let in this key:\nholdfast: "+nodeLine) {
		t.Errorf("said:\n%s", b.said())
	}
	// Where none is named, nothing is guessed.
	b.backups = nil
	b.seed(k, mac)
	if exit, out := backUp(); exit != 1 || !strings.Contains(out, "the release names no server") {
		t.Errorf("exit code %d, %q", exit, out)
	}
	// A server in its place gets nothing.
	_, other, err := sftp.Key(filepath.Join(t.TempDir(), "key"), "", rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	b.backups = map[string]any{"to": to, "hostKeys": []string{other}}
	b.seed(k, mac)
	if exit, out := backUp(); exit != 1 || !strings.Contains(out, "which the release does not name") || !strings.Contains(out, to) {
		t.Errorf("exit code %d, %q", exit, out)
	}
	if now, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(now) != 3 {
		t.Errorf("on the server: %q, %v", now, err)
	}
}

// TestNoBackup: without recovery keys nothing is written, and the remedy told.
func TestNoBackup(t *testing.T) {
	b := siteWith(t, key(t), nil)
	if exit, out, file := b.backUp(); exit != 1 || file != "" || !strings.Contains(out, "holdfast keys recovery") {
		t.Errorf("exit code %d, %q, %q", exit, file, out)
	}
	if !strings.Contains(b.said(), "NO BACKUP: ") {
		t.Errorf("said:\n%s", b.said())
	}
}
