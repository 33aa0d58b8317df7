package probe

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
)

// mostWarnings are taken of one pod; of each so many bytes as tells says.
const mostWarnings = 5

// Warnings asks a program of the platform what will go wrong unless somebody
// does something: one warning a line, nothing while all is well.
func Warnings(ctx context.Context, ip, port string) ([]string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(ip, port)+"/warnings", nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %d", req.URL, resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, reads))
	if err != nil {
		return nil, err
	}
	var out []string
	for line := range strings.Lines(string(body)) {
		line = oneLine(line)
		if line == "" || len(out) == mostWarnings {
			continue
		}
		out = append(out, cut(line))
	}
	return out, nil
}

func cut(s string) string {
	if len(s) > tells {
		return s[:tells] + "…"
	}
	return s
}
