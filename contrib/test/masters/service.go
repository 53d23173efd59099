package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// serviceAddress is the one that is under load, and dnsAddress that of the cluster's DNS.
const (
	serviceAddress = "10.96.7.7"
	dnsAddress     = "10.96.0.10"
	web            = "mkdir /www; echo ok > /www/index.html; trap 'exit 0' TERM; httpd -f -p 8080 -h /www & wait"
)

func pod(script string) corev1.PodSpec {
	return corev1.PodSpec{
		TerminationGracePeriodSeconds: new(int64),
		Containers:                    []corev1.Container{{Name: "main", Image: image, ImagePullPolicy: corev1.PullNever, Command: []string{"/bin/busybox", "sh", "-c", "/bin/busybox --install -s /bin; " + script}}},
	}
}

// deploy runs the service, a pod on each node, and returns when it answers.
func (c *cluster) deploy(ctx context.Context) error {
	kube, labels, two := c.masters[0].kube, map[string]string{"app": "web"}, int32(agentCount)
	spec := pod(web)
	spec.Containers[0].ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(8080)}}, PeriodSeconds: 1}
	spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: corev1.LabelHostname,
		WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: &metav1.LabelSelector{MatchLabels: labels}}}
	_, err := kube.AppsV1().Deployments("default").Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DeploymentSpec{Replicas: &two, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: spec}},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	_, err = kube.CoreV1().Services("default").Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       corev1.ServiceSpec{ClusterIP: serviceAddress, Selector: labels, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}}},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	return scratch.Until(ctx, startPatience, func(ctx context.Context) error {
		ready, err := kube.AppsV1().Deployments("default").Get(ctx, "web", metav1.GetOptions{})
		if err != nil || ready.Status.ReadyReplicas < two {
			return errors.Join(errors.New("the pods of the service are not ready"), err)
		}
		if _, err := nodeLeases(ctx, kube); err != nil {
			return err
		}
		return errors.Join(c.ask(ctx), c.resolve(ctx))
	})
}

// dial connects from the first agent, where there is a kube-proxy.
func (c *cluster) dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = c.agents[0].enter(func() error {
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// ask sends a request to the service.
func (c *cluster) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+serviceAddress+"/", nil)
	if err != nil {
		return err
	}
	fresh := &http.Transport{DisableKeepAlives: true, DialContext: c.dial} // each request is a new connection, balanced anew
	response, err := fresh.RoundTrip(request)
	if err != nil {
		return err
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status)
	}
	return nil
}

// resolve asks the cluster's DNS once. Programs in pods would ask again.
func (c *cluster) resolve(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return c.dial(ctx, network, net.JoinHostPort(dnsAddress, "53"))
	}}
	_, err := r.LookupHost(ctx, "web.default.svc.cluster.local.")
	return err
}

// load is the steady load on the service.
type load struct {
	cancel  context.CancelFunc
	senders sync.WaitGroup

	mu    sync.Mutex // guards the rest
	total tally
	since tally // since the last call of take
	first string
}

// tally counts requests.
type tally struct {
	sent, lost int
	longest    time.Duration
}

// startLoad sends 20 requests a second.
func (c *cluster) startLoad(ctx context.Context) *load {
	ctx, cancel := context.WithCancel(ctx)
	l := &load{cancel: cancel}
	if !c.nodes {
		return l
	}
	l.senders.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				l.senders.Go(func() { l.send(context.WithoutCancel(ctx), c.ask) })
			}
		}
	})
	return l
}

func (l *load) send(ctx context.Context, ask func(context.Context) error) {
	begin := time.Now()
	err := ask(ctx)
	took := time.Since(begin)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range []*tally{&l.total, &l.since} {
		t.sent++
		t.longest = max(t.longest, took)
		if err != nil {
			t.lost++
		}
	}
	if err != nil && l.first == "" {
		l.first = fmt.Sprintf("at %s: %v", begin.Format(time.TimeOnly), err)
	}
}

// take returns the count since the last call.
func (l *load) take() (t tally) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t, l.since = l.since, tally{}
	return t
}

// stop returns when all requests have ended.
func (l *load) stop() {
	l.cancel()
	l.senders.Wait()
}
