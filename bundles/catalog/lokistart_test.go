package catalog

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A site that gets object storage reads what it wrote before, and writes there
// from the day on that it noted.
func TestLokiStart(t *testing.T) {
	program := buildRecipe(t, "loki-start")
	const key = "0123456789abcdefKEY"
	tomorrow := time.Now().UTC().AddDate(0, 0, 1).Format(time.DateOnly)
	for _, c := range []struct {
		name, store   string
		chunks, since string   // what is on the volume
		periods       []string // from and store of each
		says          string   // where it does not start
	}{
		{"on the volume", "filesystem", "line", "", []string{"2026-01-01 filesystem"}, ""},
		{"in objects from the first day", "s3", "", "", []string{"2026-01-01 s3"}, ""},
		{"in objects from tomorrow", "s3", "line", "", []string{"2026-01-01 filesystem", tomorrow + " s3"}, ""},
		{"in objects for long", "s3", "line", "2026-03-04\n", []string{"2026-01-01 filesystem", "2026-03-04 s3"}, ""},
		{"objects are gone", "filesystem", "line", "2026-03-04\n", nil, "object storage since 2026-03-04, and this release has none"},
		{"a mark that is none", "s3", "line", "soon\n", nil, `"soon" is no day`},
		{"another store", "tape", "", "", nil, `STORE is "tape"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			put(t, dir+"/config/loki.yaml", "target: all\n", 0o600)
			put(t, dir+"/config/store.yaml", "compactor: {}\n", 0o600)
			put(t, dir+"/key", key+"\n", 0o600)
			put(t, dir+"/data/keep", "", 0o600)
			if c.chunks != "" {
				put(t, dir+"/data/chunks/"+c.chunks, "", 0o600)
			}
			if c.since != "" {
				put(t, dir+"/data/objects-since", c.since, 0o600)
			}
			run := func() (string, error) {
				cmd := exec.Command(program, "/bin/sh", "-c", `echo "$OBJECTS_KEY $*"`, "loki")
				cmd.Env = []string{"CONFIG=" + dir + "/config", "CONFIG_FILE=" + dir + "/loki.yaml", "DATA=" + dir + "/data", "STORE=" + c.store, "OBJECTS_KEY_FILE=" + dir + "/key"}
				b, err := cmd.CombinedOutput()
				return string(b), err
			}
			out, err := run()
			if c.says != "" {
				if err == nil || !strings.Contains(out, c.says) {
					t.Errorf("%v: %s", err, out)
				}
				return
			}
			if err != nil || out != key+" -config.file="+dir+"/loki.yaml -config.expand-env=true\n" {
				t.Errorf("%v: %s", err, out)
			}
			b, err := os.ReadFile(dir + "/loki.yaml")
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for line := range strings.Lines(string(b)) {
				line = strings.TrimSpace(line)
				if from, ok := strings.CutPrefix(line, "- from: "); ok {
					got = append(got, strings.Trim(from, `"`))
				} else if store, ok := strings.CutPrefix(line, "object_store: "); ok {
					got[len(got)-1] += " " + store
				}
			}
			if strings.Join(got, ", ") != strings.Join(c.periods, ", ") || !strings.HasPrefix(string(b), "target: all\ncompactor: {}\nschema_config:\n") || strings.Contains(string(b), key) {
				t.Errorf("the configuration is\n%s", b)
			}
			if _, err := run(); err != nil {
				t.Error(err)
			}
			if again, err := os.ReadFile(dir + "/loki.yaml"); err != nil || string(again) != string(b) {
				t.Errorf("the second start makes another one: %v\n%s", err, again)
			}
		})
	}
}

// Who may read gets lines, and does nothing else to Loki.
func TestLokiRead(t *testing.T) {
	program := buildProgram(t, "loki-start", "loki-read")
	var asked []string
	loki := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.RequestURI())
		if r.Header.Get("X-Scope-OrgID") != "" {
			t.Error("a header of the client's came through")
		}
		io.WriteString(w, "lines")
	}))
	defer loki.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().String()
	l.Close()
	cmd := exec.CommandContext(t.Context(), program)
	cmd.Env = []string{"LISTEN=" + at, "LOKI=" + loki.URL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		c, err := net.Dial("tcp", at)
		if err == nil {
			c.Close()
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	for _, c := range []struct {
		method, uri string
		code        int
	}{
		{"GET", "/loki/api/v1/query_range?query=%7Bnamespace%3D%22a%2Fb%22%7D&since=1h", 200},
		{"GET", "/loki/api/v1/label/namespace/values", 200},
		{"GET", "/loki/api/v1/labels", 200},
		{"GET", "/ready", 200},
		{"POST", "/loki/api/v1/query_range", 403},
		{"POST", "/loki/api/v1/push", 403},
		{"GET", "/loki/api/v1/push", 403},
		{"GET", "/flush", 403},
		{"GET", "/ingester/shutdown", 403},
		{"GET", "/loki/api/v1/delete", 403},
		{"GET", "/config", 403},
		{"GET", "/loki/api/v1/label/../delete/values", 403},
		{"GET", "/loki/api/v1/label/x%2F..%2F..%2Fdelete/values", 403},
		{"GET", "//loki/api/v1/labels", 403},
		{"GET", "/loki/api/v1/query/../../../../flush", 403},
	} {
		asked = nil
		req, err := http.NewRequestWithContext(t.Context(), c.method, "http://"+at, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.URL.Opaque = "//" + at + c.uri
		req.Header.Set("X-Scope-OrgID", "other")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != c.code || (len(asked) == 1) != (c.code == 200) || len(asked) == 1 && asked[0] != c.uri {
			t.Errorf("%s %s: %d, Loki was asked %q", c.method, c.uri, resp.StatusCode, asked)
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("asked to end: %v", err)
	}
}
