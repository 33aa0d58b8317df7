package cli_test

import (
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
)

// front CERTIFICATE KEY HOST=ADDRESS… stands for the ingress in TestPlatform,
// which has no API server to read Ingresses from: TLS ends here, and the headers
// that the ingress sends go on.
func front() {
	backends := map[string]*url.URL{}
	for _, b := range os.Args[3:] {
		host, at, _ := strings.Cut(b, "=")
		backends[host] = &url.URL{Scheme: "http", Host: at}
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(backends[r.In.Host])
		r.Out.Host = r.In.Host
		r.SetXForwarded()
	}}
	known := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if backends[r.Host] == nil {
			http.NotFound(w, r)
			return
		}
		proxy.ServeHTTP(w, r)
	})
	fmt.Fprintln(os.Stderr, http.ListenAndServeTLS("127.0.0.1:443", os.Args[1], os.Args[2], known))
	os.Exit(1)
}
