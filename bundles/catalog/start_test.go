package catalog

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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

// TestPostgresDatabase runs the real program with a psql that keeps what it is
// told, or does not reach a server.
func TestPostgresDatabase(t *testing.T) {
	program := buildProgram(t, "postgres-start", "postgres-database")
	const admin, client = "0123456789abcdefADMIN", "0123456789abcdefCLIENT"
	for _, c := range []struct {
		name, client, psql string
		want               string // in the output
		ok                 bool
	}{
		{"works", "web-1", "#!/bin/sh\nset -e\ncat > $(dirname $0)/statements\necho $PGPASSWORD@$PGHOST\n", admin + "@db.example", true},
		{"refused", "web-1", "#!/bin/sh\nexit 3\n", "cannot make role and database web-1", false},
		{"a name with a quote", "web\"; drop", "#!/bin/sh\n", "want the name of a client", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			put(t, dir+"/psql", c.psql, 0o755)
			put(t, dir+"/admin", admin, 0o600)
			put(t, dir+"/client", client+"\n", 0o600)
			cmd := exec.Command(program, c.client)
			cmd.Env = []string{"PSQL=" + dir + "/psql", "PGHOST=db.example", "PGPASSWORD_FILE=" + dir + "/admin", "CLIENT_PASSWORD_FILE=" + dir + "/client"}
			b, err := cmd.CombinedOutput()
			if (err == nil) != c.ok || !strings.Contains(string(b), c.want) {
				t.Errorf("ended with %v:\n%s", err, b)
			}
			if !c.ok {
				return
			}
			b, err = os.ReadFile(dir + "/statements")
			if err != nil {
				t.Fatal(err)
			}
			said := string(b)
			for _, w := range []string{`CREATE ROLE "web-1"`, `CREATE DATABASE "web-1" OWNER "web-1"`, "PASSWORD 'SCRAM-SHA-256$4096:"} {
				if !strings.Contains(said, w) {
					t.Errorf("no %s in\n%s", w, said)
				}
			}
			if strings.Contains(said, client) || strings.Contains(said, admin) {
				t.Errorf("a password is in\n%s", said)
			}
		})
	}
}

// A shell script stands for Java: it says that it was started.
func TestKeycloakStart(t *testing.T) {
	program := buildRecipe(t, "keycloak-start")
	dir := t.TempDir()
	put(t, dir+"/realm.json", `{"a": ["file:`+dir+`/key"], "b": {"c": "plain", "d": 1}}`, 0o600)
	put(t, dir+"/key", "-----BEGIN\n\"x\"\n", 0o600)
	put(t, dir+"/java", "#!/bin/sh\necho \"$1 $DB_PASSWORD/$DB_PASSWORD_FILE $CLASSPATH\"\n", 0o700)
	for _, jar := range []string{"/first/z.jar", "/second/b.jar", "/second/a.jar", "/second/a.txt"} {
		put(t, dir+jar, "", 0o600)
	}
	classPath := dir + "/first/z.jar:" + dir + "/second/a.jar:" + dir + "/second/b.jar"
	run := func(env ...string) (string, error) {
		cmd := exec.Command(program, dir+"/java", "main", "start", "--optimized")
		cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "REALM=" + dir + "/realm.json", "REALM_IMPORT=" + dir + "/import.json", "JARS=" + dir + "/first:" + dir + "/second"}, env...)
		b, err := cmd.CombinedOutput()
		return string(b), err
	}
	password := "DB_PASSWORD_FILE=" + dir + "/password"
	if out, err := run(password); err == nil || !strings.Contains(out, "/password") {
		t.Errorf("started without its password: %s", out)
	}
	put(t, dir+"/password", "secret\n", 0o600)
	if out, err := run(password); err != nil || out != "main secret/ "+classPath+"\n" {
		t.Errorf("%v: %s", err, out)
	}
	if out, err := run(password, "JARS="+dir+"/second:"+dir+"/third"); err == nil || !strings.Contains(out, "no jars in \""+dir+"/third\"") {
		t.Errorf("started without its jars: %s", out)
	}
	cmd := exec.Command(program, "exec", dir+"/java", "alone") // as while the image is made
	cmd.Env = []string{"JARS=" + dir + "/first"}
	if b, err := cmd.CombinedOutput(); err != nil || string(b) != "alone / "+dir+"/first/z.jar\n" {
		t.Errorf("%v: %s", err, b)
	}
	got, err := os.ReadFile(dir + "/import.json")
	if want := `{"a":["-----BEGIN\n\"x\""],"b":{"c":"plain","d":1}}`; err != nil || string(got) != want {
		t.Errorf("the realm is %s, %v", got, err)
	}

	// A database that cannot be asked is named, and its password is not.
	out, err := run("TABLES="+dir+"/realm.json", "KC_DB_URL_HOST=127.0.0.1:1", "KC_DB_URL_DATABASE=keycloak", "KC_DB_USERNAME=keycloak",
		"KC_DB_PASSWORD_FILE="+dir+"/password", "KC_DB_URL_PROPERTIES=?sslmode=verify-full&sslrootcert=system")
	if err == nil || !strings.Contains(out, "cannot make the tables") || !strings.Contains(out, "127.0.0.1:1") || strings.Contains(out, "main") || strings.Contains(out, "secret") {
		t.Errorf("without its database: %v: %s", err, out)
	}
}

func TestRegistryStart(t *testing.T) {
	program := buildRecipe(t, "registry-start")
	dir := t.TempDir()
	put(t, dir+"/secret", "s3cret\n", 0o600)
	put(t, dir+"/tls.crt", "no certificate", 0o600)
	run := func() (string, error) {
		cmd := exec.Command(program, "/bin/sh", "-c", "echo $REGISTRY_HTTP_SECRET")
		cmd.Env = []string{"TOKEN_CERTIFICATE=" + dir + "/tls.crt", "KEY_SET=" + dir + "/keys.json", "SECRET_FILE=" + dir + "/secret"}
		b, err := cmd.CombinedOutput()
		return string(b), err
	}
	if out, err := run(); err == nil || !strings.Contains(out, "tls.crt: no certificate in PEM") {
		t.Errorf("started without a certificate: %s", out)
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	put(t, dir+"/tls.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), 0o600)
	if out, err := run(); err != nil || out != "s3cret\n" {
		t.Errorf("%v: %s", err, out)
	}
	got, err := os.ReadFile(dir + "/keys.json")
	if err != nil || !regexp.MustCompile(`"kid":"([A-Z2-7]{4}:){11}[A-Z2-7]{4}"`).Match(got) {
		t.Errorf("the key set is %s, %v", got, err)
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

// buildRecipe compiles a recipe with one program of its name, or the program
// that has it; what modules it needs, the go command fetches.
func buildRecipe(t *testing.T, name string) string { return buildProgram(t, name, name) }

func buildProgram(t *testing.T, name, program string) string {
	t.Helper()
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("no go command to compile with")
	}
	b, err := exec.Command("go", "env", "GOROOT", "GOCACHE", "GOMODCACHE").Output()
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
			fetch := exec.Command("go", "mod", "download")
			fetch.Dir = t.TempDir()
			for _, f := range []string{"go.mod", "go.sum"} {
				put(t, filepath.Join(fetch.Dir, f), string(r.Files[f]), 0o644)
			}
			if out, err := fetch.CombinedOutput(); err != nil {
				t.Fatalf("go mod download for %s: %v: %s", name, err, out)
			}
			paths, err := gobuild.Build(t.Context(), r, gobuild.Inputs{GoRoot: env[0], BuildCache: env[1], ModCache: env[2], OutDir: t.TempDir()}, nil)
			if err != nil {
				t.Fatal(err)
			}
			return paths[program]
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
