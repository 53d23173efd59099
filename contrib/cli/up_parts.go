package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/docker/docker/client"
	"github.com/sirupsen/logrus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/controlplane"
	"github.com/k8sm/k8sm/contrib/gateway"
	"github.com/k8sm/k8sm/contrib/localmesos"
	"github.com/k8sm/k8sm/contrib/ui"
	"github.com/k8sm/k8sm/contrib/up/engine"
	"github.com/k8sm/k8sm/minion/cri"
)

// findEngine describes the Docker Engine that the cluster uses. It returns "" if none answers and --docker-host is not given.
func (l *laptop) findEngine(ctx context.Context) (found string, err error) {
	l.plane.DockerHost = l.dockerHost
	if l.dockerHost == "" {
		l.plane.DockerHost = client.DefaultDockerHost
	}
	version, err := askEngine(ctx, l.plane.DockerHost, l.plane.Minions.DockerCertPath)
	if err == nil {
		return version + " at " + l.plane.DockerHost, nil
	}
	if l.dockerHost != "" {
		return "", fmt.Errorf("the Docker Engine at %s does not answer: %w; start it, or give another --docker-host", l.dockerHost, err)
	}
	return "", nil
}

// engineDir has all files of the Docker Engine that km up starts.
func (l *laptop) engineDir() string { return filepath.Join(string(l.dir), "engine") }

// runEngine runs a Docker Engine below the state directory.
func (l *laptop) runEngine(ctx context.Context, ready func(string)) error {
	e, err := engine.Start(ctx, engine.Config{Dir: l.engineDir()})
	if err != nil {
		return err
	}
	ready("started for this cluster at " + e.Host())
	e.Keep(ctx, tellEngine)
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	return e.Stop(last)
}

// tellEngine tells what becomes of an Engine that does not run as it should.
func tellEngine(what string) { logrus.Warn(what) }

func askEngine(ctx context.Context, host, certPath string) (version string, err error) {
	docker, err := cri.Connect(host, certPath)
	if err != nil {
		return "", err
	}
	defer docker.Close()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	v, err := docker.ServerVersion(ctx)
	return v.Version, err
}

func (l *laptop) runControlPlane(ctx context.Context, ready func(string)) error {
	l.plane.Ready = func(url string) { ready("Kubernetes " + api.KubernetesVersion + " answers at " + url) }
	return controlplane.Run(ctx, l.plane)
}

// runDNS is ready when the service kube-dns has an endpoint, or at once if no server runs here.
func (l *laptop) runDNS(ctx context.Context, ready func(string)) error {
	if l.dns.Count == 0 {
		ready("no server on this machine")
	}
	return l.dns.Run(ctx, logrus.StandardLogger().Out, func() {
		ready(fmt.Sprintf("names in %s resolve at %s", l.plane.ClusterDomain, strings.Join(l.plane.DNSService(), " and ")))
	})
}

// runMetrics is ready at once: no other part needs metrics.
func (l *laptop) runMetrics(ctx context.Context, ready func(string)) error {
	if l.metrics.Enabled {
		ready("a server for kubectl top starts at " + net.JoinHostPort(l.metrics.Address, strconv.Itoa(l.metrics.Port)))
	} else {
		ready("none")
	}
	l.metrics.Logs = l.logs.Serves()
	return l.metrics.Run(ctx, logrus.StandardLogger().Out)
}

// runLogs is ready at once: minions keep what they cannot ship yet.
func (l *laptop) runLogs(ctx context.Context, ready func(string)) error {
	if l.logs.Enabled {
		ready("a store for km logs starts at " + net.JoinHostPort(l.logs.Address, strconv.Itoa(l.logs.Port)))
	} else {
		ready("none")
	}
	return l.logs.Run(ctx, logrus.StandardLogger().Out)
}

// runGateway serves v1beta1.
func (l *laptop) runGateway(ctx context.Context, ready func(string)) error {
	server, err := gateway.Listen(l.compat)
	if err != nil {
		return err
	}
	defer server.Close()
	return serveGateway(ctx, server, l.dir, func() { ready("clients of 2014 are answered at " + server.Addr()) })
}

// runPage serves the web page.
func (l *laptop) runPage(ctx context.Context, ready func(string)) error {
	server, err := ui.Listen(l.page)
	if err != nil {
		return err
	}
	defer server.Close()
	admin, stop, err := connectPage(ctx, server, l.dir)
	if err != nil {
		return err
	}
	defer stop()
	if l.link, err = server.Link(ctx, admin); err != nil { // before ready: its reader starts then
		return err
	}
	ready("the cluster in a browser is at " + server.URL())
	return server.Run(ctx)
}

func (l *laptop) runMesos(ctx context.Context, ready func(string)) error {
	if err := l.planAgents(); err != nil {
		return err
	}
	cluster, err := localmesos.Start(ctx, l.mesos)
	if err != nil {
		return err
	}
	l.schedule.mesos.Masters = []string{cluster.MasterAddr()}
	l.schedule.mesos.Principal, l.schedule.mesos.SecretFile = cluster.Credential()
	close(l.mesosUp)
	ready("the master answers at http://" + cluster.MasterAddr())
	problem := l.watchMachines(ctx, cluster)
	cluster.Stop()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	// This also removes what a killed km up left if no minion has started since.
	return errors.Join(problem, l.cleanUp(last))
}

// runScheduler waits for the local Mesos. It is ready when the nodes are.
func (l *laptop) runScheduler(ctx context.Context, ready func(string)) error {
	select {
	case <-l.mesosUp:
	case <-ctx.Done():
		return ctx.Err()
	}
	watching, cancel := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		nodes := awaitNodes(watching, l.dir.AdminKubeconfig(), l.nodes.Count)
		l.ready = nodes // before ready: its reader starts then
		switch len(nodes) {
		case 0:
		case 1:
			ready("node " + nodes[0] + " is ready")
		default:
			ready("nodes " + strings.Join(nodes, ", ") + " are ready")
		}
	}()
	defer func() { cancel(); <-watched }()
	return l.schedule.run(ctx, l.dir)
}

// awaitNodes waits until count nodes are Ready and returns the names of all that are; none if ctx ends first.
func awaitNodes(ctx context.Context, kubeconfig string, count int) (ready []string) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil
	}
	kubernetes, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		nodes, err := kubernetes.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		ready = nil
		for i := 0; err == nil && i < len(nodes.Items); i++ {
			if api.NodeReady(&nodes.Items[i]) {
				ready = append(ready, nodes.Items[i].Name)
			}
		}
		if len(ready) >= count {
			return ready
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}
