package agent

import (
	"context"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/apply"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/netpol"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/node"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/status"
)

// policyComponent is what the status calls the enforcement of NetworkPolicies.
const policyComponent = "network-policy"

// startPolicies begins to enforce NetworkPolicies, until ctx ends. The rules of
// an earlier agent of this boot stand meanwhile.
func (a *agent) startPolicies(ctx context.Context, e engine, n node.Node) (*netpol.Controller, error) {
	var cluster netpol.Cluster
	err := a.insist(ctx, status.EngineUp, "enforce network policies", func() (err error) {
		cluster, err = netpol.Connect(a.host.path(e.adminConf))
		return err
	})
	if err != nil {
		return nil, err
	}
	return netpol.Run(ctx, cluster, n.Name, a.host.path(netpol.RecordsDir), a.host.Enforce, a.log), nil
}

// policyHealth shows the policies among the components: without them nothing
// is healthy.
func policyHealth(p *netpol.Controller) apply.Health {
	h := apply.Health{Name: policyComponent, Applied: true, Healthy: true}
	if err := p.Err(); err != nil {
		h.Healthy, h.Reason = false, err.Error()
	}
	return h
}
