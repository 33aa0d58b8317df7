package catalog

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// pgBackRest here writes where it is told to, or fails; the server says what it
// finds.
const (
	backrest = `#!/bin/sh
for a; do case $a in --pg1-path=*) d=${a#--pg1-path=};; esac; done
echo "archive asked: $*"
test ! -e "$(dirname "$0")/fails" || exit 1
echo 17 > "$d/PG_VERSION" && echo restored > "$d/rows"
`
	sayRows = "#!/bin/sh\necho \"server has $(cat \"$2/rows\") $*\"\n"
)

// Whatever was left by a power cut, the server starts on one whole cluster.
func TestPostgresRestore(t *testing.T) {
	start := buildRecipe(t, "postgres-start")
	store, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	for _, c := range []struct {
		name  string
		files string // names, each with what it has
		fails bool
		want  string   // rows that the server has
		says  string   // as well
		left  []string // beside the cluster
	}{
		{"nothing asked", "pgdata/rows=now", false, "now", "--archive_command=/archive push 127.0.0.1:", nil},
		{"asked", "pgdata/rows=now pgdata.restore=2026-01-02,3", false, "restored", "--type=time --target=2026-01-02 --target-action=promote --target-timeline=3 restore", []string{"pgdata.before"}},
		{"asked for the latest", "pgdata/rows=now pgdata.restore=latest", false, "restored", `archive-get %f "%p" restore`, []string{"pgdata.before"}},
		{"cut while it was made", "pgdata/rows=now pgdata.restore=latest pgdata.restoring/rows=half", false, "restored", "archive asked", []string{"pgdata.before"}},
		{"cut when it was made", "pgdata/rows=now pgdata.restore=latest pgdata.restored/rows=whole", false, "whole", "", []string{"pgdata.before"}},
		{"cut when the request was gone", "pgdata/rows=now pgdata.restored/rows=whole", false, "whole", "", []string{"pgdata.before"}},
		{"cut between the names", "pgdata.before/rows=now pgdata.restored/rows=whole", false, "whole", "", []string{"pgdata.before"}},
		{"a second time", "pgdata/rows=now pgdata.before/rows=older pgdata.restore=latest", false, "restored", "", []string{"pgdata.before"}},
		{"back", "pgdata/rows=now pgdata.before/rows=older pgdata.restore=back", false, "older", "from before the restore", nil},
		{"back, cut between the names", "pgdata.restoring/rows=now pgdata.before/rows=older pgdata.restore=back", false, "older", "", nil},
		{"back, cut behind them", "pgdata/rows=older pgdata.restoring/rows=now pgdata.restore=back", false, "older", "", nil},
		{"no archive", "pgdata/rows=now pgdata.restore=latest", true, "now", "the database stays what it is", []string{"pgdata.restore.failed"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			volume := dir + "/volume"
			put(t, dir+"/bin/postgres", sayRows, 0o755)
			put(t, dir+"/bin/pgbackrest", backrest, 0o755)
			put(t, dir+"/password", "0123456789abcdef0123456789abcdef", 0o600)
			put(t, dir+"/archive/secretKey", "SECRETSECRETSECRETSECRET", 0o600)
			for _, f := range strings.Fields(c.files) {
				name, text, _ := strings.Cut(f, "=")
				put(t, filepath.Join(volume, name), strings.ReplaceAll(text, ",", "\n")+"\n", 0o600)
				if d, ok := strings.CutSuffix(name, "/rows"); ok {
					put(t, filepath.Join(volume, d, "PG_VERSION"), "17\n", 0o600)
				}
			}
			if c.fails {
				put(t, dir+"/bin/fails", "", 0o600)
			}
			cmd := exec.Command(start, "--port=5432")
			cmd.Env = []string{"PGDATA=" + volume + "/pgdata", "PGBIN=" + dir + "/bin", "PGPASSWORD_FILE=" + dir + "/password", "PGSOCKETS=" + dir,
				"PGBACKREST=" + dir + "/bin/pgbackrest", "ARCHIVE=" + dir + "/archive", "ARCHIVE_ENDPOINT=" + store.Addr().String(), "ARCHIVE_BUCKET=db", "PGARCHIVE=/archive"}
			b, err := cmd.CombinedOutput()
			out := string(b)
			if err != nil || !strings.Contains(out, "server has "+c.want+" ") || !strings.Contains(out, c.says) || strings.Contains(out, "SECRET") {
				t.Errorf("%v:\n%s", err, out)
			}
			if strings.Contains(out, "archive asked:") != (strings.Contains(c.files, "pgdata.restore=") && (c.want == "restored" || c.fails)) {
				t.Errorf("the archive was asked, or not:\n%s", out)
			}
			want := append([]string{"pgdata"}, c.left...)
			entries, err := os.ReadDir(volume)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, e := range entries {
				got = append(got, e.Name())
			}
			if strings.Join(got, " ") != strings.Join(want, " ") {
				t.Errorf("the volume has %v, want %v", got, want)
			}
			conf, err := os.ReadFile(dir + "/pgbackrest.conf")
			if err != nil || !strings.Contains(string(conf), "repo1-s3-key-secret=SECRETSECRET") || !strings.Contains(string(conf), fmt.Sprintf("repo1-s3-endpoint=127.0.0.1\nrepo1-storage-port=%d\n", store.Addr().(*net.TCPAddr).Port)) {
				t.Errorf("%v: its configuration is\n%s", err, conf)
			}
			if fi, err := os.Stat(dir + "/pgbackrest.conf"); err != nil || fi.Mode().Perm() != 0o600 {
				t.Errorf("others read the key: %v, %v", fi.Mode(), err)
			}
		})
	}
}

// The server gets the signals, and its exit code is that of the program.
func TestPostgresSupervised(t *testing.T) {
	start := buildRecipe(t, "postgres-start")
	dir := t.TempDir()
	put(t, dir+"/pgdata/PG_VERSION", "17\n", 0o600)
	put(t, dir+"/password", "0123456789abcdef0123456789abcdef", 0o600)
	put(t, dir+"/bin/postgres", "#!/bin/sh\ntrap 'exit 7' INT\necho up $*\nwhile :; do sleep 0.1; done\n", 0o755)
	cmd := exec.Command(start)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "PGDATA=" + dir + "/pgdata", "PGBIN=" + dir + "/bin", "PGPASSWORD_FILE=" + dir + "/password", "TLS=" + dir + "/tls"}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1000)
	n, err := out.Read(b)
	if err != nil || !strings.Contains(string(b[:n]), "--ssl=on") || !strings.Contains(string(b[:n]), "--ssl_key_file="+dir+"/tls/tls.key") {
		t.Errorf("%v: %s", err, b[:n])
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 7 {
		t.Errorf("ended with %v", err)
	}
}
