package lab_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/lab"
)

func talk(t testing.TB, in string) (string, error) {
	t.Helper()
	n := lab.Node{
		Status:     func() (any, error) { return map[string]string{"phase": "healthy"}, nil },
		Kubeconfig: func() (string, error) { return "", errors.New("no cluster yet") },
		Logs:       func(_ context.Context, unit string, n int) (string, error) { return unit, nil },
		Power:      func(context.Context, string) error { return nil },
		Audit:      func() (string, error) { return "", errors.New("changed") },
	}
	var out bytes.Buffer
	err := lab.Serve(t.Context(), struct {
		io.Reader
		io.Writer
	}{strings.NewReader(in), &out}, n)
	return out.String(), err
}

func TestAnswers(t *testing.T) {
	for in, want := range map[string]string{
		`{"id":1,"op":"status"}`:                           `{"id":1,"ok":true,"result":{"phase":"healthy"}}`,
		`{"id":2,"op":"kubeconfig"}`:                       `{"id":2,"error":"no cluster yet"}`,
		`{"id":3,"op":"logs","unit":"kubelet.service"}`:    `{"id":3,"ok":true,"result":"kubelet.service"}`,
		`{"id":4,"op":"logs","unit":"--file=/etc/shadow"}`: `"error":"cannot read logs`,
		`{"id":5,"op":"reboot"}`:                           `{"id":5,"ok":true,"result":"reboot"}`,
		`{"id":6,"op":"exec"}`:                             `{"id":6,"error":"cannot do \"exec\"`,
		`{"id":7,"op":"audit"}`:                            `{"id":7,"error":"changed"}`,
		`{"id":8,"op":"apply"}`:                            `{"id":8,"error":"cannot do \"apply\"`,
		`nonsense`:                                         `"error":"cannot read request`,
	} {
		if got, err := talk(t, in+"\n"); err != nil || !strings.Contains(got, want) || strings.Count(got, "\n") != 1 {
			t.Errorf("%s: got %s, %v", in, got, err)
		}
	}
	if _, err := talk(t, strings.Repeat("x", 1<<20)); err == nil {
		t.Error("read a line of 1 MiB")
	}
}

func FuzzServe(f *testing.F) {
	f.Add(`{"id":3,"op":"logs","unit":"kubelet.service","lines":-1}`)
	f.Fuzz(func(t *testing.T, in string) {
		out, err := talk(t, in)
		if err == nil && strings.Count(out, "\n") > strings.Count(in, "\n")+1 {
			t.Errorf("%q: %q", in, out)
		}
	})
}
