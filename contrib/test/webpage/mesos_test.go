package webpage

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/statedir"
	"github.com/k8sm/k8sm/scheduler"
	"github.com/k8sm/k8sm/scheduler/mesosmetrics"
	"github.com/k8sm/k8sm/scheduler/mesosstate"
	"github.com/k8sm/k8sm/scheduler/status"
)

// mesos is a scheduler as its status server shows it.
type mesos struct {
	mu       sync.Mutex // guards the rest
	kube     kubernetes.Interface
	document mesosstate.Document
	tasks    []scheduler.LiveTask
	offers   []scheduler.LiveOffer
	history  scheduler.OfferHistory
	queue    []scheduler.WaitingPod
	address  string // "" while no scheduler leads
	stop     func()
}

// serve begins to serve the status.
func (m *mesos) serve(t *testing.T, c *cluster) {
	t.Helper()
	certFile, keyFile := c.dir.Pair(statedir.SchedulerServer)
	server, err := status.Listen(status.Config{Address: "127.0.0.1:0", CertFile: certFile, KeyFile: keyFile, ClientCAFile: c.dir.CA()},
		status.Shows{Scheduler: m, Mesos: m, Metrics: prometheus.NewRegistry(), Reviewer: c.kube})
	if err != nil {
		t.Fatal(err)
	}
	stop := run(t, server.Run)
	m.change(func() { m.address, m.stop = server.Addr(), stop })
}

// leave ends the status server, as a scheduler that ends.
func (m *mesos) leave() {
	m.stop()
	m.change(func() { m.address = "" })
}

func (m *mesos) change(what func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	what()
}

func (m *mesos) find(context.Context) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.address == "" {
		return "", errors.New("no scheduler leads")
	}
	return m.address, nil
}

func (m *mesos) State(context.Context) (mesosstate.Document, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := m.document
	d.Agents = append([]mesosstate.Agent(nil), d.Agents...) // the server joins them with nodes
	return d, nil
}

func (m *mesos) Metrics(context.Context) []mesosmetrics.Sample { return nil }

// Nodes are those of the API, each its own agent's.
func (m *mesos) Nodes(ctx context.Context) (live []scheduler.LiveNode, err error) {
	list, err := m.kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for i := range list.Items {
		node := &list.Items[i]
		one := scheduler.LiveNode{Node: node.Name, Agent: agentOf(node), Ready: api.NodeReady(node), Minion: true, KM: hostile, Kubelet: hostile}
		if node.Spec.Unschedulable {
			one.CordonedFor = "somebody"
		}
		live = append(live, one)
	}
	return live, nil
}

func (m *mesos) Alive() error { return nil }
func (m *mesos) Ready() error { return nil }

func (m *mesos) Tasks(context.Context) ([]scheduler.LiveTask, error)   { return under(m, &m.tasks) }
func (m *mesos) Offers(context.Context) ([]scheduler.LiveOffer, error) { return under(m, &m.offers) }
func (m *mesos) Queue(context.Context) ([]scheduler.WaitingPod, error) { return under(m, &m.queue) }
func (m *mesos) OfferHistory(context.Context) (scheduler.OfferHistory, error) {
	return under(m, &m.history)
}

func under[T any](m *mesos, what *T) (T, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return *what, nil
}
