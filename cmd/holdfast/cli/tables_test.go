package cli

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write Keycloak's tables anew, as it makes them by itself, and the classes that it loads")

// ownTables has Keycloak make its tables by itself, as it does where its
// database is not empty, and sees that an empty one gets the same from the
// component's file. It gives the number of rows that each table has then, and
// leaves no database.
func (p *pods) ownTables(t *testing.T) map[string]int {
	t.Helper()
	const file = "../../../bundles/catalog/components/keycloak/files/tables.sql"
	p.setEnv("Deployment", "keycloak", "TABLES", "")
	keycloak := p.start("Deployment", "keycloak", "keycloak")
	t.Logf("Keycloak's first start, with tables of its own: %v", p.keycloakReady(t, keycloak))
	keycloak.stop()
	made := statements(p.postgres(t, "pg_dump", "--schema-only", "--no-owner", "--no-acl", "keycloak") +
		p.postgres(t, "pg_dump", "--data-only", "--rows-per-insert=1000", "--table=databasechangelog*", "keycloak"))
	if *update {
		must(t, os.WriteFile(file, []byte(made), 0o644))
	}
	have, err := os.ReadFile(file)
	must(t, err)
	if made != string(have) {
		t.Errorf("%s is not what Keycloak makes by itself: run this test with -update, look at the difference, and run it again", file)
	}
	rows := p.rows(t)
	p.postgres(t, "psql", "-c", "DROP DATABASE keycloak")
	p.setEnv("Deployment", "keycloak", "TABLES", "/opt/keycloak-tables.sql")
	return rows
}

// logClasses has Keycloak's next start write down which classes it loads.
func (p *pods) logClasses(on bool) {
	options := ""
	if on {
		options = "-Xlog:class+load:file=/tmp/classes.log"
	}
	p.setEnv("Deployment", "keycloak", "JAVA_TOOL_OPTIONS", options)
}

var loaded = regexp.MustCompile(`\] (\S+) source: (shared objects file|file:|jrt:)`)

// fromArchive sees that the classes that were loaded are those of the archive
// in the image, all but those of signed jars, which it cannot have.
func (p *pods) fromArchive(t *testing.T) {
	t.Helper()
	log, err := os.ReadFile(filepath.Join(p.dirOf(p.find("Deployment", "keycloak", "keycloak"), "tmp"), "classes.log"))
	must(t, err)
	var names []string
	archived := 0
	for _, m := range loaded.FindAllStringSubmatch(string(log), -1) {
		if m[2] == "shared objects file" {
			archived++
		}
		if !strings.Contains(m[1], "/") && !strings.Contains(m[1], "$$Lambda") { // made at run time
			names = append(names, strings.ReplaceAll(m[1], ".", "/"))
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if *update {
		must(t, os.WriteFile("../../../bundles/catalog/components/keycloak/files/classes.txt", []byte(strings.Join(names, "\n")+"\n"), 0o644))
	}
	t.Logf("%d of %d classes are from the archive", archived, len(names))
	if len(names) < 10000 || archived*100 < len(names)*95 {
		t.Error("that is too few: run this test with -update, and run it again")
	}
}

// postgres runs a program of the database's image as its administrator.
func (p *pods) postgres(t *testing.T, program string, args ...string) string {
	t.Helper()
	root, _ := p.unpack(p.find("StatefulSet", "postgresql", "postgresql").Spec.Template.Spec.Containers[0].Image)
	out, err := p.inside("env", append([]string{"PGHOST=127.0.0.1", "PGUSER=postgres", "PGPASSWORD=" + p.secrets["postgresql/postgresql"]["password"],
		"chroot", root, "/usr/lib/postgresql/17/bin/" + program}, args...)...)
	if err != nil {
		t.Fatalf("%s: %v: %s", program, err, out)
	}
	must(t, os.RemoveAll(root))
	return out
}

// rows counts those of each table of Keycloak's database.
func (p *pods) rows(t *testing.T) map[string]int {
	t.Helper()
	rows := map[string]int{}
	for _, line := range strings.Split(p.postgres(t, "pg_dump", "--data-only", "--inserts", "keycloak"), "\n") {
		if table, ok := strings.CutPrefix(line, "INSERT INTO public."); ok {
			table, _, _ = strings.Cut(table, " ")
			rows[table]++
		}
	}
	return rows
}

var (
	executed   = regexp.MustCompile(`'\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?'`)
	deployment = regexp.MustCompile(`'\d{10}'\)`)
)

// statements are those of a dump, without what differs from one to the next:
// comments, commands of psql, and when and by which run a change was made.
func statements(dump string) string {
	var out strings.Builder
	for _, line := range strings.Split(dump, "\n") {
		if line != "" && !strings.HasPrefix(line, "--") && !strings.HasPrefix(line, `\`) {
			line = executed.ReplaceAllString(line, "'2000-01-01 00:00:00'")
			out.WriteString(deployment.ReplaceAllString(line, "'0000000000')") + "\n")
		}
	}
	return out.String()
}
