package monitor

import (
	"cmp"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
)

const (
	maxAlerts = 1 << 20 // bytes of a message
	maxText   = 500     // of a field
	// Alertmanager says every twelve hours what still is so. Who says nothing any
	// more has nothing to say.
	lasts = 25 * time.Hour
)

// Alert is one that Alertmanager sent.
type Alert struct {
	ID, Name, Summary, Severity string
	Since                       time.Time
	Over                        bool
}

// taking reads messages of Alertmanager's webhook, version 4.
func taking(alerts func([]Alert)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxAlerts))
		if err != nil {
			http.Error(w, "cannot read the alerts: "+err.Error(), http.StatusBadRequest)
			return
		}
		as, err := parse(b)
		if err != nil {
			http.Error(w, "cannot read the alerts: "+err.Error(), http.StatusBadRequest)
			return
		}
		alerts(as)
	})
}

func parse(b []byte) ([]Alert, error) {
	var m struct {
		Alerts []struct {
			Status      string            `json:"status"`
			Labels      map[string]string `json:"labels"`
			Annotations map[string]string `json:"annotations"`
			StartsAt    time.Time         `json:"startsAt"`
			Fingerprint string            `json:"fingerprint"`
		} `json:"alerts"`
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, err
	}
	var out []Alert
	for _, a := range m.Alerts {
		out = append(out, Alert{
			ID: a.Fingerprint, Name: line(a.Labels["alertname"]), Summary: line(cmp.Or(a.Annotations["summary"], a.Annotations["description"])),
			Severity: line(a.Labels["severity"]), Since: a.StartsAt.UTC(), Over: a.Status == "resolved",
		})
	}
	return out, nil
}

// line makes one short line of a text.
func line(s string) string {
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "\uFFFD")), " ")
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "") + "…"
	}
	return s
}

// Book has the alerts that are not over.
type Book struct {
	all  map[string]Alert
	seen map[string]time.Time
}

// Take adds a message's alerts, and tells which are new, and which are over.
func (b *Book) Take(as []Alert, now time.Time) (begun, over []Alert) {
	if b.all == nil {
		b.all, b.seen = map[string]Alert{}, map[string]time.Time{}
	}
	for _, a := range as {
		_, known := b.all[a.ID]
		switch {
		case a.Over && known:
			over = append(over, a)
			delete(b.all, a.ID)
			delete(b.seen, a.ID)
		case !a.Over:
			if !known {
				begun = append(begun, a)
			}
			b.all[a.ID], b.seen[a.ID] = a, now
		}
	}
	return begun, over
}

// Now are those that are not over, the oldest first.
func (b *Book) Now(now time.Time) []Alert {
	var out []Alert
	for id, a := range b.all {
		if now.Sub(b.seen[id]) > lasts {
			delete(b.all, id)
			delete(b.seen, id)
			continue
		}
		out = append(out, a)
	}
	slices.SortFunc(out, func(x, y Alert) int {
		return cmp.Or(x.Since.Compare(y.Since), cmp.Compare(x.Name, y.Name), cmp.Compare(x.ID, y.ID))
	})
	return out
}
