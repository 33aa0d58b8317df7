// Package probe asks pods of its own node: why they are not ready, and what they
// warn of.
package probe

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
	"unicode"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

const (
	waits = 3 * time.Second
	reads = 16 << 10
	tells = 300 // bytes of the answer
)

// client asks as the kubelet does: whoever answers at the pod's address.
var client = &http.Client{
	Timeout: waits,
	Transport: &http.Transport{Proxy: nil, DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// Refusal is what the readiness probe of a running container is answered, of
// which the kubelet tells the code alone; nothing if there is no answer, or no
// refusal.
func Refusal(ctx context.Context, p *corev1.Pod) string {
	for _, s := range p.Status.ContainerStatuses {
		if s.Ready || s.State.Running == nil {
			continue
		}
		for i := range p.Spec.Containers {
			if k := &p.Spec.Containers[i]; k.Name == s.Name && k.ReadinessProbe != nil && k.ReadinessProbe.HTTPGet != nil {
				return ask(ctx, p.Status.PodIP, k)
			}
		}
	}
	return ""
}

func ask(ctx context.Context, ip string, k *corev1.Container) string {
	get := k.ReadinessProbe.HTTPGet
	port := portOf(get.Port, k)
	scheme := strings.ToLower(string(get.Scheme))
	if scheme == "" {
		scheme = "http"
	}
	// The kubelet would ask another host too; what that says is no pod's.
	if get.Host != "" || ip == "" || port == 0 {
		return ""
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s://%s/%s", scheme, net.JoinHostPort(ip, fmt.Sprint(port)), strings.TrimPrefix(get.Path, "/")), nil)
	if err != nil {
		return ""
	}
	resp, err := client.Do(req)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	if resp.StatusCode < http.StatusBadRequest {
		return ""
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, reads))
	if err != nil {
		body = nil
	}
	out := fmt.Sprintf("it answers %d", resp.StatusCode)
	if why := checksDown(body); why != "" {
		out += ": " + cut(why)
	}
	return out
}

func portOf(want intstr.IntOrString, k *corev1.Container) int32 {
	if want.Type == intstr.Int {
		return want.IntVal
	}
	for _, p := range k.Ports {
		if p.Name == want.StrVal {
			return p.ContainerPort
		}
	}
	return 0
}

// checksDown names the checks of MicroProfile's form that are down; of any other
// answer it is the text on one line.
func checksDown(body []byte) string {
	var health struct {
		Checks []struct{ Name, Status string }
	}
	if json.Unmarshal(body, &health) == nil {
		var down []string
		for _, c := range health.Checks {
			if c.Status != "UP" {
				down = append(down, c.Name)
			}
		}
		if len(down) > 0 {
			return strings.Join(down, ", ")
		}
	}
	return oneLine(string(body))
}

// oneLine is text without what would move a terminal's cursor.
func oneLine(s string) string {
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "?")), " ")
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return -1
		}
		return r
	}, s)
}
