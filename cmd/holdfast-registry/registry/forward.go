package registry

import (
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
)

// Forward passes on to the store at to what is read from it, with a token to
// read. It listens on a node's loopback: containerd takes plain HTTP from there.
func Forward(to *url.URL, read string, log *slog.Logger) http.Handler {
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Header.Set(TokenHeader, read)
		},
		// To the store alone, whatever the environment says of proxies.
		Transport: &http.Transport{Proxy: nil, MaxIdleConnsPerHost: 8, ResponseHeaderTimeout: waitHeader},
		ErrorHandler: func(w http.ResponseWriter, q *http.Request, err error) {
			log.Error("the store does not answer", "path", q.URL.Path, "error", err)
			answer(w, http.StatusBadGateway, fault{"the store does not answer: " + err.Error()})
		},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		reads := q.Method == http.MethodGet || q.Method == http.MethodHead
		if !reads || q.URL.Path != "/v2" && !strings.HasPrefix(q.URL.Path, "/v2/") {
			answer(w, http.StatusMethodNotAllowed, fault{"images are read here, and nothing else"})
			return
		}
		proxy.ServeHTTP(w, q)
	})
}
