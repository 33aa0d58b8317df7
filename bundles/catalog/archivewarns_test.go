package catalog

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// What keeps a database from being archived is told to the node that asks, and
// nothing while all is well.
func TestPostgresArchiveWarns(t *testing.T) {
	program := buildProgram(t, "postgres-start", "postgres-archive")
	store := listen(t)
	defer store.Close()
	for _, c := range []struct {
		name, endpoint, waits, patience, want string
	}{
		{"storage that is away", "127.0.0.1:1", "", "0s", "the database has not been archived since 20"},
		{"a log that waits since now", store.Addr().String(), "00000001000000000000000A", "30m", ""},
		{"a log that waits", store.Addr().String(), "00000001000000000000000A", "0s", "the server's log waits from 00000001000000000000000A on"},
		{"all is well", store.Addr().String(), "", "0s", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			put(t, dir+"/archive/secretKey", "SECRETSECRETSECRETSECRET", 0o600)
			put(t, dir+"/data/PG_VERSION", "17\n", 0o600)
			put(t, dir+"/psql", "#!/bin/sh\ncase \"$*\" in *recovery*) echo f;; *archiver*) touch "+dir+"/asked; echo '"+c.waits+"';; esac\n", 0o755)
			put(t, dir+"/pgbackrest", fmt.Sprintf(`#!/bin/sh
echo '[{"name":"site","status":{"message":"ok"},"backup":[{"label":"a","type":"full","timestamp":{"start":%d,"stop":%[1]d}}]}]'
`, time.Now().Unix()), 0o755)
			l := listen(t)
			port := fmt.Sprint(l.Addr().(*net.TCPAddr).Port)
			l.Close()
			var said strings.Builder
			cmd := exec.Command(program, "run")
			cmd.Stdout, cmd.Stderr = &said, &said
			cmd.Env = []string{"PGDATA=" + dir + "/data", "PSQL=" + dir + "/psql", "PGSOCKETS=" + dir, "PGBACKREST=" + dir + "/pgbackrest", "ARCHIVE=" + dir + "/archive",
				"ARCHIVE_ENDPOINT=" + c.endpoint, "ARCHIVE_BUCKET=db", "ARCHIVE_WARNINGS=" + port, "ARCHIVE_PATIENCE=" + c.patience, "PATH=/usr/bin:/bin"}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			got := ""
			for end := time.Now().Add(30 * time.Second); got == "" && time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
				_, err := os.Stat(dir + "/asked")
				time.Sleep(200 * time.Millisecond) // for what follows the question
				got = get(t, "http://127.0.0.1:"+port+"/warnings")
				if c.want == "" && err == nil {
					break
				}
			}
			_ = cmd.Process.Signal(syscall.SIGTERM)
			_ = cmd.Wait()
			if (c.want == "") != (got == "") || !strings.Contains(got, c.want) || strings.Contains(got+said.String(), "SECRET") {
				t.Errorf("it warns %q, want %q; it said\n%s", got, c.want, said.String())
			}
		})
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// get is what a server answers, "" while there is none.
func get(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %v", resp.Status, err)
	}
	return string(b)
}
