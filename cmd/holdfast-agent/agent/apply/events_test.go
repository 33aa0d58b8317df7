package apply

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/node"
)

// A pod's state alone does not say what it waits for; the last warning does.
func TestWarnings(t *testing.T) {
	pod := func(status string) string {
		return `{"apiVersion":"v1","kind":"PodList","items":[{"apiVersion":"v1","kind":"Pod","metadata":{"name":"postgresql-0","namespace":"db","uid":"u"},
			"spec":{"nodeName":"node1","containers":[]},"status":` + status + `}]}`
	}
	event := func(age time.Duration, reason, message string) string {
		return fmt.Sprintf(`{"apiVersion":"v1","kind":"Event","metadata":{"name":"e","namespace":"db"},"type":"Warning","reason":%q,"message":%q,"lastTimestamp":%q}`,
			reason, message, time.Now().Add(-age).UTC().Format(time.RFC3339))
	}
	const (
		creating = `{"phase":"Pending","containerStatuses":[{"name":"main","state":{"waiting":{"reason":"ContainerCreating"}}}]}`
		running  = `{"phase":"Running","containerStatuses":[{"name":"main","state":{"running":{}}}]}`
		crashed  = `{"phase":"Running","containerStatuses":[{"name":"main","state":{"waiting":{"reason":"CrashLoopBackOff"}},"lastState":{"terminated":{"exitCode":1,"message":"no room left"}}}]}`
	)
	missing := event(time.Minute, "FailedMount", "MountVolume.SetUp failed for\nvolume \"key\"")
	old := event(time.Hour, "Unhealthy", "long ago")
	for _, c := range []struct {
		pod, want string
		events    []string
	}{
		{creating, `pod postgresql-0: main: ContainerCreating: FailedMount: MountVolume.SetUp failed for volume "key"`, []string{old, missing, event(0, "FailedScheduling", "no room")}},
		{creating, "pod postgresql-0: main: ContainerCreating", []string{old}},
		{running, "pod postgresql-0: main: running, not ready yet: Unhealthy: refused", []string{missing, event(0, "Unhealthy", "refused")}},
		{crashed, "pod postgresql-0: main: CrashLoopBackOff: no room left", []string{missing}},
		{running, "pod postgresql-0: main: running, not ready yet", nil},
	} {
		api := pending(t, map[string]string{
			"/api/v1": `{"kind":"APIResourceList","groupVersion":"v1","resources":[{"name":"pods","namespaced":true,"kind":"Pod"},
				{"name":"events","namespaced":true,"kind":"Event"}]}`,
			"/api/v1/namespaces/db/pods":   pod(c.pod),
			"/api/v1/namespaces/db/events": `{"apiVersion":"v1","kind":"EventList","items":[` + strings.Join(c.events, ",") + `]}`,
		})
		got, err := api.Unready(t.Context(), node.Ready{Kind: "StatefulSet", Namespace: "db", Name: "postgresql"})
		if err != nil || got != c.want {
			t.Errorf("got %q, %v, want %q", got, err, c.want)
		}
	}
}
