package cli

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/k8sm/k8sm/api/balancer"
	"github.com/k8sm/k8sm/api/etcd"
	"github.com/k8sm/k8sm/api/snapshot"
	"github.com/k8sm/k8sm/api/state"
	"github.com/k8sm/k8sm/api/statedir"
	"github.com/k8sm/k8sm/contrib/upgrade"
	"github.com/k8sm/k8sm/scheduler"
	"github.com/k8sm/k8sm/scheduler/status"
)

// clusterReader reads the cluster of a state directory as its administrator.
type clusterReader struct {
	dir      statedir.Dir
	show     showing // which scheduler is asked
	snapshot string  // a file
}

// read reads what a plan is made of. What cannot be read is in the state, too.
func (r clusterReader) read(ctx context.Context) (upgrade.State, error) {
	s := upgrade.State{Now: time.Now()}
	own := versionsOf()
	s.Target = upgrade.Versions{KM: own.KM, Kubernetes: own.Kubernetes, Etcd: own.Etcd}
	admin, err := r.dir.Admin()
	if err != nil {
		return s, errors.Join(r.dir.NoCluster(), err)
	}
	for _, part := range []struct {
		what string
		read func(context.Context, *rest.Config, *upgrade.State) error
	}{
		{"the members of etcd", r.members}, {"the API servers", r.servers}, {"the schedulers", r.schedulers}, {"the nodes", r.nodes},
		{"the PodDisruptionBudgets", budgets}, {"the certificates", r.certificates}, {"the snapshot", r.lastSnapshot},
	} {
		if err := part.read(ctx, admin, &s); err != nil {
			s.Unread = append(s.Unread, fmt.Sprintf("cannot read %s: %v", part.what, err))
		}
	}
	return s, nil
}

// members reads the members of etcd, unless it runs in the API server's process.
func (r clusterReader) members(ctx context.Context, _ *rest.Config, s *upgrade.State) error {
	access, err := r.dir.Etcd()
	if err != nil || access.Embedded {
		return err
	}
	client, err := etcd.Dial(access)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	all, err := etcd.Read(ctx, client)
	for _, m := range all {
		problem := m.Problem
		if len(m.Alarms) > 0 {
			problem = cmp.Or(problem, "alarm "+strings.Join(m.Alarms, ", "))
		}
		s.EtcdMembers = append(s.EtcdMembers, upgrade.Part{Name: cmp.Or(m.Name, m.ID), Versions: upgrade.Versions{Etcd: m.Version}, Problem: problem})
	}
	return err
}

// servers reads the API servers' versions and, in their metrics, which deprecated APIs are in use and when a snapshot was saved.
func (r clusterReader) servers(ctx context.Context, admin *rest.Config, s *upgrade.State) error {
	seed, err := balancer.Seed(admin.Host)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(admin)
	if err != nil {
		return err
	}
	list := []string{seed}
	slice, err := client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).Get(ctx, "kubernetes", metav1.GetOptions{})
	if err == nil {
		if all := balancer.Servers(slice); len(all) > 0 {
			list = all
		}
	}
	ask, err := newServerVersions(admin, func() []string { return list })
	if err != nil {
		return err
	}
	for _, server := range ask.ask(ctx) {
		part := upgrade.Part{Name: server.Address, Versions: upgrade.Versions{Kubernetes: server.Version}}
		families, err := ask.metrics(ctx, server.Address)
		if server.Version == "" {
			part.Problem = "it does not tell its version"
		} else if err != nil {
			part.Problem = "cannot read its metrics: " + err.Error()
		}
		part.KM = labelOf(families, "k8sm_controlplane_build_info", "version")
		s.Deprecated = deprecated(s.Deprecated, families)
		for _, m := range families["k8sm_snapshot_last_success_timestamp_seconds"].GetMetric() {
			if at := time.Unix(int64(m.GetGauge().GetValue()), 0); m.GetGauge().GetValue() > 0 && at.After(s.Snapshot) {
				s.Snapshot = at
			}
		}
		s.Servers = append(s.Servers, part)
	}
	return nil
}

// deprecated adds the deprecated APIs that a server says are in use.
func deprecated(known []upgrade.API, families map[string]*dto.MetricFamily) []upgrade.API {
	for _, m := range families["apiserver_requested_deprecated_apis"].GetMetric() {
		labels := map[string]string{}
		for _, l := range m.GetLabel() {
			labels[l.GetName()] = l.GetValue()
		}
		name := labels["resource"]
		for _, part := range []string{labels["version"], labels["group"]} {
			if part != "" {
				name += "." + part
			}
		}
		one := upgrade.API{Name: name, Removed: labels["removed_release"]}
		if m.GetGauge().GetValue() > 0 && !slices.Contains(known, one) {
			known = append(known, one)
		}
	}
	return known
}

// schedulers reads the versions of those that serve their status where this machine can reach it.
func (r clusterReader) schedulers(ctx context.Context, _ *rest.Config, s *upgrade.State) error {
	access, err := r.dir.Etcd()
	if err != nil {
		return err
	}
	store, err := state.Open(ctx, stateConfig(access, r.show.clusterName))
	if err != nil {
		return err
	}
	defer store.Close()
	identities, err := store.Schedulers(ctx)
	if err == nil && len(identities) == 0 {
		err = errors.New("none runs: start km scheduler")
	}
	here, _ := os.Hostname() // without it, no loopback address is ours
	for _, identity := range identities {
		part := upgrade.Part{Name: identity}
		if address := addressFrom(identity, here); address != "" {
			asked := r.show
			asked.address = address
			families, err := r.schedulerMetrics(ctx, asked)
			if err != nil {
				part.Problem = err.Error()
			}
			part.KM = labelOf(families, "k8sm_scheduler_build_info", "version")
			part.Kubernetes = labelOf(families, "k8sm_scheduler_build_info", "kubernetes")
		}
		s.Schedulers = append(s.Schedulers, part)
	}
	return err
}

// addressFrom returns where this machine reaches the status of the scheduler with this identity; "" for nowhere.
func addressFrom(identity, machine string) string {
	address := status.AddressOf(identity)
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return ""
	}
	name, _, _ := strings.Cut(identity, "/")
	if ip := net.ParseIP(host); ip != nil && ip.IsLoopback() && name != machine {
		return ""
	}
	return address
}

func (r clusterReader) schedulerMetrics(ctx context.Context, asked showing) (map[string]*dto.MetricFamily, error) {
	client, err := statusClient(ctx, r.dir, asked)
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	if err := client.Copy(ctx, "/metrics", &text); err != nil {
		return nil, err
	}
	return parseMetrics(&text)
}

// nodes reads the nodes with minions from the leading scheduler. All others start with the next version by themselves.
func (r clusterReader) nodes(ctx context.Context, _ *rest.Config, s *upgrade.State) error {
	client, err := statusClient(ctx, r.dir, r.show)
	if err != nil {
		return err
	}
	nodes, err := client.Nodes(ctx)
	for _, n := range nodes {
		one := upgrade.Node{Part: upgrade.Part{Name: n.Node}, OldSettings: n.Settings == scheduler.SettingsOld}
		if n.Minion {
			one.KM, one.Kubernetes = n.KM, n.Kubelet
		}
		if !n.Ready {
			one.Problem = "it is not ready"
		}
		if step := n.Rollout; step != nil && (step.State == scheduler.StepFailed || step.State == scheduler.StepStuck) {
			one.Stopped = step.Reason
		}
		s.Nodes = append(s.Nodes, one)
	}
	return err
}

// budgets reads the PodDisruptionBudgets that have pods and let none be evicted.
func budgets(ctx context.Context, admin *rest.Config, s *upgrade.State) error {
	client, err := kubernetes.NewForConfig(admin)
	if err != nil {
		return err
	}
	list, err := client.PolicyV1().PodDisruptionBudgets("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, b := range list.Items {
		if b.Status.ExpectedPods > 0 && b.Status.DisruptionsAllowed == 0 {
			s.Budgets = append(s.Budgets, b.Namespace+"/"+b.Name)
		}
	}
	return nil
}

func (r clusterReader) certificates(_ context.Context, _ *rest.Config, s *upgrade.State) error {
	all, err := readCertificates(r.dir, s.Now)
	for _, c := range all {
		s.Certificates = append(s.Certificates, upgrade.Certificate{Name: c.Name, Since: c.Since, Until: c.Until})
	}
	return err
}

// lastSnapshot reads when the file was saved, if one is given.
func (r clusterReader) lastSnapshot(_ context.Context, _ *rest.Config, s *upgrade.State) error {
	if r.snapshot == "" {
		return nil
	}
	m, err := snapshot.ReadManifest(r.snapshot)
	if err == nil && m.Created.After(s.Snapshot) {
		s.Snapshot = m.Created
	}
	return err
}

// metrics reads an API server's metrics.
func (v *serverVersions) metrics(ctx context.Context, address string) (map[string]*dto.MetricFamily, error) {
	body, err := v.get(ctx, address, "/metrics")
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return parseMetrics(body)
}

func parseMetrics(text io.Reader) (map[string]*dto.MetricFamily, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	return parser.TextToMetricFamilies(text)
}

// labelOf returns the value of a label of a family's first metric; "" if there is none.
func labelOf(families map[string]*dto.MetricFamily, name, label string) string {
	for _, m := range families[name].GetMetric() {
		for _, l := range m.GetLabel() {
			if l.GetName() == label {
				return l.GetValue()
			}
		}
	}
	return ""
}
