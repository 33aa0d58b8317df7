package apply

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// What pods of the platform warn of is told; those of others are not asked, and
// one that does not answer keeps no other back.
func TestPodsWarn(t *testing.T) {
	said := "  no backup since\tMonday\x1b[2J \n\nthe log waits\n" + strings.Repeat("x", 400) + "\n4\n5\n6\n"
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/warnings" {
			t.Errorf("asked for %s", r.URL)
		}
		io.WriteString(w, said)
	}))
	defer s.Close()
	at, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	pod := func(namespace, name, phase, port string) string {
		return fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"namespace":%q,"name":%q,"labels":{"holdfast.dev/warns":%q}},
			"spec":{"containers":[]},"status":{"phase":%q,"podIP":"127.0.0.1"}}`, namespace, name, port, phase)
	}
	answers := map[string]string{
		"/api/v1/namespaces": `{"apiVersion":"v1","kind":"NamespaceList","items":[{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"db"}}]}`,
		"/api/v1/pods": `{"apiVersion":"v1","kind":"PodList","items":[` + strings.Join([]string{
			pod("db", "gone", "Running", "1"), pod("db", "db-0", "Running", at.Port()), pod("db", "db-1", "Pending", at.Port()), pod("users", "x", "Running", at.Port()),
		}, ",") + `]}`,
	}
	got, err := pending(t, answers).Warnings(t.Context())
	want := []string{"db: no backup since Monday[2J", "db: the log waits", "db: " + strings.Repeat("x", 300) + "…", "db: 4", "db: 5"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if err == nil || !strings.Contains(err.Error(), "cannot ask pod db/gone") {
		t.Error(err)
	}
	said = ""
	if got, _ := pending(t, answers).Warnings(t.Context()); got == nil || len(got) > 0 {
		t.Errorf("once all is well: %q", got)
	}
}
