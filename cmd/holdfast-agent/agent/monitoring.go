package agent

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"holdfast.dev/holdfast/bundles/install"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/monitor"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/node"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/status"
)

const (
	monitorPort   = 5003
	monitorAgain  = 10 * time.Second
	mostAlerts    = 100 // that the status lists
	lookForAlerts = 10 * time.Minute
)

// monitored answers the site's monitoring at the node's address, until ctx ends.
func (a *agent) monitored(ctx context.Context, u *updates, n node.Node) {
	m := u.running.config.Services.Monitoring
	for ctx.Err() == nil {
		secret, err := a.secret(node.Secret{Name: m.Name, Namespace: m.Namespace, From: &node.From{Name: m.Name, Namespace: m.Namespace, Keys: []string{m.Key}}})
		if err == nil {
			err = a.serveMonitoring(ctx, u, n, secret[m.Key])
		}
		if err != nil && ctx.Err() == nil {
			a.log.Error("monitoring", "error", err)
		}
		_ = a.host.Sleep(ctx, monitorAgain)
	}
}

func (a *agent) serveMonitoring(ctx context.Context, u *updates, n node.Node, token string) error {
	if token == "" {
		return errors.New("the token of the monitoring is empty")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l, err := net.Listen("tcp", net.JoinHostPort(n.IP(), strconv.Itoa(monitorPort)))
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var book monitor.Book
	show := func(as []monitor.Alert) {
		mu.Lock()
		defer mu.Unlock()
		begun, over := book.Take(as, a.host.Now())
		for _, x := range begun {
			a.Say("ALERT: %s: %s", x.Name, x.Summary)
		}
		for _, x := range over {
			a.Say("alert is over: %s: %s", x.Name, x.Summary)
		}
		var now []status.Alert
		for _, x := range book.Now(a.host.Now()) {
			now = append(now, status.Alert{Name: x.Name, Summary: x.Summary, Severity: x.Severity, Since: x.Since})
		}
		a.Update(func(s *status.Status) { s.Alerts = now[:min(len(now), mostAlerts)] })
	}
	go func() {
		for a.host.Sleep(ctx, lookForAlerts) == nil {
			show(nil) // those that nobody repeats any more
		}
	}()
	s := &http.Server{
		Handler:           monitor.Handler(token, func() monitor.Measures { return a.measures(u, n) }, show),
		ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute, WriteTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
	}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	return s.Serve(l)
}

func (a *agent) measures(u *updates, n node.Node) monitor.Measures {
	st, s := a.Get(), a.look(u, n)
	m := monitor.Measures{
		Site: st.Release.Name, Node: n.Name, Version: u.running.Facts().Version, Release: u.ref.Release,
		Healthy: st.Phase == status.Healthy, Components: map[string]bool{},
		VarSize: s.size, VarFree: s.free, Ends: s.ends, BackupOverdue: s.noBackup, ClockAlone: s.clock,
		UpdateUnderWay: s.update.Step != install.Idle && s.update.Step != "",
		UpdateFailed:   s.mode == install.Fallback || s.update.Step == install.Idle && s.update.Failed.Release.Release != 0,
	}
	for _, c := range st.Components {
		m.Components[c.Name] = c.Healthy
	}
	if s.backup != nil {
		m.Backup = s.backup.Time
	}
	// Those that differ in the address that they came from alone are one.
	packets := map[monitor.Outside]int64{}
	for _, t := range st.Outside.Tries {
		packets[monitor.Outside{Who: t.Who, To: t.To, Proto: t.Proto}] += t.Packets
	}
	for o, n := range packets {
		o.Packets = n
		m.Outside = append(m.Outside, o)
	}
	return m
}
