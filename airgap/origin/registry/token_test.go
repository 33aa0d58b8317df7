package registry_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"holdfast.dev/holdfast/airgap/origin/registry"
	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/qemu-tests/distribution"
)

// A registry that wants tokens gets one, for one repository, for the password;
// neither goes where a blob is redirected to.
func TestToken(t *testing.T) {
	config, layer := `{"os":"linux","architecture":"amd64"}`, "a layer"
	desc := func(kind, b string) string {
		return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, kind, store.FromBytes([]byte(b)), len(b))
	}
	manifest := `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":` + desc("application/vnd.oci.image.config.v1+json", config) +
		`,"layers":[` + desc("application/vnd.oci.image.layer.v1.tar", layer) + `]}`
	blobs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("a credential went to another host")
		}
		_, _ = io.WriteString(w, map[string]string{string(store.FromBytes([]byte(config))): config, string(store.FromBytes([]byte(layer))): layer}[r.URL.Query().Get("d")])
	}))
	defer blobs.Close()
	var tokens atomic.Int64
	var addr string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch user, pass, _ := r.BasicAuth(); {
		case r.URL.Path == "/token" && user == distribution.User && pass == distribution.Password && r.URL.Query().Get("scope") == "repository:team/app:pull":
			tokens.Add(1)
			_, _ = io.WriteString(w, `{"token":"one"}`)
		case r.Header.Get("Authorization") != "Bearer one":
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+addr+`/token",service="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		case strings.Contains(r.URL.Path, "/blobs/"):
			http.Redirect(w, r, blobs.URL+"/?d="+r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:], http.StatusTemporaryRedirect)
		default:
			_, _ = io.WriteString(w, manifest)
		}
	}))
	defer srv.Close()
	addr = srv.Listener.Addr().String()
	c := &registry.Client{Keychain: password{}}
	s, r := open(t), ref(t, addr+"/team/app:1")
	im, err := c.Resolve(context.Background(), s, r, amd64)
	if err == nil {
		err = c.Fetch(context.Background(), s, []registry.Wanted{{Ref: r, Manifest: im.Manifest}}, nil)
	}
	if err != nil || tokens.Load() != 1 {
		t.Errorf("%d tokens, %v", tokens.Load(), err)
	}
}

// A registry that nobody can be reached at says what to look at.
func TestUnreachable(t *testing.T) {
	c := registry.Client{}
	_, err := c.Resolve(t.Context(), open(t), registry.Ref{Registry: "127.0.0.1:1", Repository: "a/b", Tag: "1"}, amd64)
	if err == nil || !strings.Contains(err.Error(), "cannot resolve image 127.0.0.1:1/a/b:1") || !strings.Contains(err.Error(), "hint: is 127.0.0.1:1 up") {
		t.Errorf("got %v", err)
	}
}
