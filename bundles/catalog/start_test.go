package catalog

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"holdfast.dev/holdfast/image/gobuild"
)

// TestPostgresStart runs the real program with an initdb and a server that
// only say what they were asked.
func TestPostgresStart(t *testing.T) {
	start := buildRecipe(t, "postgres-start")
	const secret = "0123456789abcdef0123456789abcdef"
	const initdb = `#!/bin/sh
for a; do case $a in --pgdata=*) d=${a#--pgdata=};; esac; done
echo "initdb $*"
mkdir "$d" && echo 17 > "$d/PG_VERSION"
`
	for _, c := range []struct {
		name    string
		prepare func(t *testing.T, data string)
		initdb  string
		want    []string // in the output
		not     string
		created bool
	}{
		{"new", nil, initdb, []string{"initdb --no-sync --pgdata=", "--data-checksums", "--auth-host=scram-sha-256", "server -D ", " --port=5432"}, "", true},
		{"again", func(t *testing.T, data string) { put(t, data+"/PG_VERSION", "17\n", 0o600) }, initdb, []string{"server -D "}, "initdb", true},
		{"interrupted before", func(t *testing.T, data string) { put(t, data+".new/PG_VERSION", "17\n", 0o600) }, initdb, []string{"initdb", "server -D "}, "", true},
		{"something else there", func(t *testing.T, data string) { put(t, data+"/precious", "x", 0o600) }, initdb, []string{"has files but no PG_VERSION"}, "server", false},
		{"initdb fails", nil, "#!/bin/sh\nmkdir \"${1#--pgdata=}\"\nexit 1\n", []string{"cannot make a database"}, "server", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			data := filepath.Join(dir, "volume", "pgdata")
			put(t, dir+"/bin/initdb", c.initdb, 0o755)
			put(t, dir+"/bin/postgres", "#!/bin/sh\necho \"server $*\"\n", 0o755)
			put(t, dir+"/password", secret, 0o600)
			if c.prepare != nil {
				c.prepare(t, data)
			}
			cmd := exec.Command(start, "--port=5432")
			cmd.Env = []string{"PGDATA=" + data, "PGBIN=" + dir + "/bin", "PGPASSWORD_FILE=" + dir + "/password"}
			b, err := cmd.CombinedOutput()
			out := string(b)
			if (err == nil) != c.created {
				t.Errorf("ended with %v:\n%s", err, out)
			}
			for _, w := range c.want {
				if !strings.Contains(out, w) {
					t.Errorf("said %q; want %q", out, w)
				}
			}
			if c.not != "" && strings.Contains(out, c.not) || strings.Contains(out, secret) {
				t.Errorf("said %q", out)
			}
			if _, err := os.Stat(data + "/PG_VERSION"); (err == nil) != c.created {
				t.Errorf("the database: %v", err)
			}
			if _, err := os.Stat(data + ".new"); c.created && err == nil && c.name != "again" {
				t.Error("the half-made database is still there")
			}
		})
	}
}

func TestPauseEndsWhenTold(t *testing.T) {
	cmd := exec.Command(buildRecipe(t, "pause"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	// Before its handler is set the signal ends it too: no exit code then.
	if err := cmd.Wait(); err != nil && cmd.ProcessState.ExitCode() != -1 {
		t.Error(err)
	}
}

// buildRecipe compiles a recipe that needs the standard library alone.
func buildRecipe(t *testing.T, name string) string {
	t.Helper()
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("no go command to compile with")
	}
	b, err := exec.Command("go", "env", "GOROOT", "GOCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	env := strings.Fields(string(b))
	recipes, err := Recipes()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range recipes {
		if r.Name == name {
			paths, err := gobuild.Build(t.Context(), r, gobuild.Inputs{GoRoot: env[0], BuildCache: env[1], ModCache: t.TempDir(), OutDir: t.TempDir()}, nil)
			if err != nil {
				t.Fatal(err)
			}
			return paths[name]
		}
	}
	t.Fatalf("no recipe %s", name)
	return ""
}

func put(t *testing.T, name, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}
