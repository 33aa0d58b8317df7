package cli

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestArchive runs the database and the object storage from their images by
// their manifests: connections are encrypted, backups and all that is written
// between them go to the storage, and the database comes back as of a moment,
// and to what it was before.
func TestArchive(t *testing.T) {
	runsPods(t, "nsenter")
	compilesLong(t, "MinIO")
	p := platform(t, "postgresql", "minio")
	p.certificate(t, "postgresql", "postgresql")
	p.certificate(t, "minio", "minio")
	minio := p.objectsReady(t)
	if hook := p.start("Job", "minio", "bucket-postgresql"); hook.end(5*time.Minute) != nil {
		t.Fatal(hook.said())
	}
	db := p.database(t)
	archive := p.beside("StatefulSet", "postgresql", "postgresql", "archive")
	made := func() bool { return strings.Contains(archive.said(), "full backup made") }
	t.Logf("the first backup is there after %v", archive.until(t.Context(), 5*time.Minute, "done with its first backup", made))

	p.wantTLS(t, db)
	p.psql(t, db, "create table kept (word text); insert into kept values ('before')")
	time.Sleep(1100 * time.Millisecond)
	moment := p.psql(t, db, `select to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')`)
	time.Sleep(1100 * time.Millisecond)
	p.psql(t, db, "insert into kept values ('after')")

	ask := func(args ...string) (string, error) {
		return p.exec(archive, append([]string{"/usr/bin/postgres-archive"}, args...)...)
	}
	for target, want := range map[string]string{
		"yesterday":            `cannot read the time "yesterday"`,
		"2020-01-01T00:00:00Z": "the oldest backup ended at",
		"2999-01-01T00:00:00Z": "cannot go to 2999",
		"back":                 "there is nothing from before a restore",
	} {
		if out, err := ask("restore", target); err == nil || !strings.Contains(out, want) {
			t.Errorf("restore %s: %v: %s", target, err, out)
		}
	}
	if out, err := ask("list"); err != nil || strings.Count(out, "  full  ") != 1 || !strings.Contains(out, "any moment since") {
		t.Errorf("list: %v: %s", err, out)
	}
	again := func(target, want string) {
		t.Helper()
		if out, err := ask("restore", target); err != nil || !strings.Contains(out, "delete pod postgresql-0") {
			t.Fatalf("restore %s: %v: %s", target, err, out)
		}
		archive.stop()
		db.with = syscall.SIGINT // as its preStop does
		db.stop()
		start := time.Now()
		db = p.database(t)
		if got := p.psql(t, db, "select word from kept"); got != want {
			t.Errorf("as of %s it has %q, want %q\n%s", target, got, want, db.said())
		}
		t.Logf("restored as of %s after %v", target, time.Since(start).Round(time.Second))
		archive = p.beside("StatefulSet", "postgresql", "postgresql", "archive")
	}
	again(moment, "before")
	again("back", "before\nafter")
	p.psql(t, db, "insert into kept values ('later')")
	again("latest", "before\nafter\nlater")

	// Without the storage the database goes on, and archives what it can later.
	minio.stop()
	p.psql(t, db, "insert into kept values ('alone')")
	p.psql(t, db, "select pg_switch_wal()")
	took := db.until(t.Context(), 6*time.Minute, "unable to archive", func() bool {
		return p.psql(t, db, "select failed_count > 0 from pg_stat_archiver") == "t"
	})
	t.Logf("that the storage is away is known after %v", took.Round(time.Second))
	data := filepath.Join(p.dir, "volumes/postgresql/claim/postgresql-data/pgdata")
	must(t, os.WriteFile(data+".restore", []byte("latest\n"), 0o644))
	archive.stop()
	db.stop()
	db = p.database(t)
	if !strings.Contains(db.said(), "the database stays what it is: cannot restore it as of latest") {
		t.Errorf("the database says\n%s", db.said())
	}
	if got := p.psql(t, db, "select count(*) from kept"); got != "4" {
		t.Errorf("the database has %s rows of 4", got)
	}
	p.objectsReady(t)
	db.until(t.Context(), 5*time.Minute, "done with what waited", func() bool {
		return p.psql(t, db, "select last_archived_time > last_failed_time from pg_stat_archiver") == "t"
	})
	said := db.said() + archive.said()
	for name, secret := range p.secrets {
		for key, text := range secret {
			if key != "tls.crt" && key != "ca.crt" && strings.Contains(said, text) {
				t.Errorf("%s of the secret %s is in the log", key, name)
			}
		}
	}
}

// database starts the server and waits until it takes statements that write.
func (p *pods) database(t *testing.T) *running {
	t.Helper()
	r := p.start("StatefulSet", "postgresql", "postgresql")
	r.until(t.Context(), 5*time.Minute, "ready", func() bool {
		out, err := p.exec(r, psqlArgs("select pg_is_in_recovery()")...)
		return err == nil && out == "f"
	})
	return r
}

func psqlArgs(statement string) []string {
	return []string{"/usr/lib/postgresql/17/bin/psql", "-h", "/run/postgresql", "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-qAtc", statement}
}

func (p *pods) psql(t *testing.T, r *running, statement string) string {
	t.Helper()
	out, err := p.exec(r, psqlArgs(statement)...)
	if err != nil {
		t.Fatalf("%s: %v: %s\n%s", statement, err, out, r.said())
	}
	return out
}

// exec runs a program in a container, as its user.
func (p *pods) exec(r *running, argv ...string) (string, error) {
	pid, err := r.program()
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return "", err
	}
	var uid, gid string
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		switch f[0] {
		case "Uid:":
			uid = f[1]
		case "Gid:":
			gid = f[1]
		}
	}
	cmd := exec.Command("nsenter", append([]string{"--target", fmt.Sprint(pid), "--mount", "--pid", "--net", "--root", "--setuid", uid, "--setgid", gid}, argv...)...)
	cmd.Env = r.cmd.Env
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// program is the process of a container, once it is in its own root.
func (r *running) program() (int, error) {
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if pids := children(r.cmd.Process.Pid); len(pids) > 0 {
			if root, err := os.Readlink(fmt.Sprintf("/proc/%d/root", pids[0])); err == nil && root != "/" {
				return pids[0], nil
			}
		}
	}
	return 0, fmt.Errorf("%s does not run", r.name)
}

// wantTLS looks that the server's certificate is the site's, and that it talks
// to nobody without.
func (p *pods) wantTLS(t *testing.T, db *running) {
	t.Helper()
	ca := filepath.Join(p.dir, "volumes/postgresql/postgresql/run/ca.crt")
	must(t, os.WriteFile(ca, []byte(p.site["tls.crt"]), 0o644))
	ask := func(mode string) (string, error) {
		return p.exec(db, "/usr/lib/postgresql/17/bin/psql",
			"host=postgresql.postgresql.svc.cluster.local user=postgres sslrootcert=/run/postgresql/ca.crt sslmode="+mode+" password="+p.secrets["postgresql/postgresql"]["password"],
			"-Atc", "select version from pg_stat_ssl where pid = pg_backend_pid()")
	}
	if out, err := ask("verify-full"); err != nil || out != "TLSv1.3" {
		t.Errorf("with TLS: %v: %s", err, out)
	}
	if out, err := ask("disable"); err == nil || !strings.Contains(out, "no encryption") {
		t.Errorf("without TLS: %v: %s", err, out)
	}
}
