// Package monitor answers the site's own monitoring: with what a node measures,
// in Prometheus' text format, and by taking the alerts that Alertmanager sends.
package monitor

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Measures are what a node says of itself. Times that are zero are not known.
type Measures struct {
	Site, Node, Version string
	Release             uint64
	Healthy             bool
	Components          map[string]bool      // healthy, by name
	VarSize, VarFree    int64                // bytes; size 0: not known
	Ends                map[string]time.Time // certificates, by file
	Backup              time.Time            // of the last one
	BackupOverdue       bool
	ClockAlone          bool // time servers are named, and none has answered
	UpdateUnderWay      bool
	UpdateFailed        bool
	Outside             []Outside // no two of the same
}

// Outside is what one pod or unit sent to one place that is not the site.
type Outside struct {
	Who, To, Proto string
	Packets        int64
}

// Handler answers GET /metrics and POST /alerts to whoever has the token.
func Handler(token string, measure func() Measures, alerts func([]Alert)) http.Handler {
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collector(measure))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	mux.Handle("POST /alerts", taking(alerts))
	want := sha256.Sum256([]byte("Bearer " + token))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got := sha256.Sum256([]byte(r.Header.Get("Authorization")))
		if subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
			http.Error(w, "the token is missing or wrong", http.StatusUnauthorized)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// collector gives the measures of the moment in which it is asked.
type collector func() Measures

// Describe tells nothing: which series there are depends on the node.
func (collector) Describe(chan<- *prometheus.Desc) {}

// Collect sends the measures.
func (c collector) Collect(to chan<- prometheus.Metric) {
	m := c()
	send := func(name, help string, value float64, labels ...string) { // name, value, name, value, …
		var names, values []string
		for i := 0; i < len(labels); i += 2 {
			names, values = append(names, labels[i]), append(values, labels[i+1])
		}
		to <- prometheus.MustNewConstMetric(prometheus.NewDesc("holdfast_"+name, help, names, nil), prometheus.GaugeValue, value, values...)
	}
	send("release", "Number of the release that runs.", float64(m.Release), "site", m.Site, "node", m.Node, "version", m.Version)
	send("healthy", "Whether node, engine and platform are well.", is(m.Healthy))
	for name, healthy := range m.Components {
		send("component_healthy", "Whether a component is well.", is(healthy), "component", name)
	}
	if m.VarSize > 0 {
		send("var_size_bytes", "Size of the file system for all that changes.", float64(m.VarSize))
		send("var_free_bytes", "What is free of it.", float64(m.VarFree))
	}
	for file, end := range m.Ends {
		send("certificate_end_seconds", "When a certificate of the engine ends, in Unix time.", float64(end.Unix()), "file", file)
	}
	if !m.Backup.IsZero() {
		send("backup_time_seconds", "Of when the last backup is, in Unix time.", float64(m.Backup.Unix()))
	}
	send("backup_overdue", "Whether there was none for twice the time that the release asks for.", is(m.BackupOverdue))
	send("clock_alone", "Whether no time server has answered since the node started.", is(m.ClockAlone))
	send("update_under_way", "Whether an update is being made or tried.", is(m.UpdateUnderWay))
	send("update_failed", "Whether the last update failed, or the confirmed release does not boot.", is(m.UpdateFailed))
	for _, o := range m.Outside {
		send("outside_packets", "What was sent beyond the site in this boot.", float64(o.Packets), "who", o.Who, "to", o.To, "proto", o.Proto)
	}
}

func is(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
