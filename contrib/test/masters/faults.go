package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"

	"github.com/k8sm/k8sm/contrib/test/scratch"
)

var everything = metav1.ListOptions{}

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
	kube, labels, two := c.masters[0].kube, map[string]string{"app": "web"}, int32(2)
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
		return errors.Join(ask(ctx), resolve(ctx))
	})
}

// ask sends a request to the service.
func ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+serviceAddress+"/", nil)
	if err != nil {
		return err
	}
	fresh := &http.Transport{DisableKeepAlives: true} // each request is a new connection, balanced anew
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

// resolve asks the cluster's DNS once, as pods do.
func resolve(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, net.JoinHostPort(dnsAddress, "53"))
	}}
	_, err := r.LookupHost(ctx, "web.default.svc.cluster.local.")
	return err
}

// load is the steady load on the service.
type load struct {
	cancel  context.CancelFunc
	senders sync.WaitGroup

	mu      sync.Mutex // guards the rest
	sent    int
	lost    []string
	longest time.Duration
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
				l.senders.Go(func() { l.send(context.WithoutCancel(ctx)) })
			}
		}
	})
	return l
}

func (l *load) send(ctx context.Context) {
	begin := time.Now()
	err := ask(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent++
	l.longest = max(l.longest, time.Since(begin))
	if err != nil {
		l.lost = append(l.lost, fmt.Sprintf("%s: %v", begin.Format(time.TimeOnly), err))
	}
}

func (l *load) stop() (sent int, lost []string, longest time.Duration) {
	l.cancel()
	l.senders.Wait()
	return l.sent, l.lost, l.longest
}

// do harms a master, and returns how to undo that.
func (m *master) do(ctx context.Context, fault string) (undo func() error, err error) {
	switch fault {
	case "kill":
		m.signal(syscall.SIGKILL)
		return func() error { return nil }, nil
	case "stop":
		m.signal(syscall.SIGSTOP)
		return func() error { m.signal(syscall.SIGCONT); return nil }, nil
	case "cut":
		down := func(state string) error {
			return errors.Join(each(ctx, [][]string{{"ip", "link", "set", m.link, state}})...)
		}
		return func() error { return down("up") }, down("down")
	case "fill":
		ballast := filepath.Join(m.dir, "ballast")
		if err := fill(ballast); err != nil {
			return nil, err
		}
		return func() error { return os.Remove(ballast) }, nil
	}
	return nil, fmt.Errorf("there is no fault %q", fault)
}

// fill writes to a file until the disk is full.
func fill(path string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	for block := make([]byte, 1<<20); ; {
		if _, err := file.Write(block); errors.Is(err, syscall.ENOSPC) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// harm does one thing to a master, measures how long clients wait, and makes the master well again. It returns what took too long.
func (c *cluster) harm(ctx context.Context, m *master, fault string, limit time.Duration) (slow []string, err error) {
	undo, err := m.do(ctx, fault)
	if err != nil {
		return nil, err
	}
	waited := c.measure(ctx, m, time.Now())
	if err := undo(); err != nil {
		return nil, err
	}
	var figures []string
	for _, w := range waited {
		figures = append(figures, fmt.Sprintf("%s=%s", w.what, w.took.Round(10*time.Millisecond)))
		if w.err != nil || w.took > limit {
			slow = append(slow, fmt.Sprintf("%s of master %d: %s took %s (%v)", fault, m.number, w.what, w.took.Round(time.Millisecond), w.err))
		}
	}
	fmt.Printf("MASTERS %s master=%d %s\n", fault, m.number, strings.Join(figures, " "))
	if err := c.startMaster(ctx, m); err != nil {
		return slow, err
	}
	return slow, scratch.Until(ctx, startPatience, func(ctx context.Context) error { return write(ctx, m.kube, "well-again") })
}

// kind is a kind of client, and what it tries.
type kind struct {
	what string
	try  func(context.Context) error
}

// wait is how long a kind of client waited after a fault.
type wait struct {
	what string
	took time.Duration
	err  error
}

// measurePatience is when a client gives up.
const measurePatience = 90 * time.Second

// measure lets all kinds of clients work from the time of the fault on.
func (c *cluster) measure(ctx context.Context, harmed *master, from time.Time) []wait {
	others := slices.DeleteFunc(slices.Clone(c.masters), func(m *master) bool { return m == harmed })
	kinds := []kind{{"balanced", func(ctx context.Context) error { return write(ctx, c.client, "balanced") }}}
	if c.nodes {
		kinds = append(kinds, kind{"dns", resolve},
			kind{"scheduling", func(ctx context.Context) error { return c.schedules(ctx, others[0], from) }},
			kind{"heartbeats", func(ctx context.Context) error { return beats(ctx, others[0], from) }})
	}
	for _, m := range others {
		kinds = append(kinds, kind{fmt.Sprintf("kubectl-%d", m.number), func(ctx context.Context) error { return write(ctx, m.kube, "probe") }})
	}
	waits := make([]wait, len(kinds))
	var clients sync.WaitGroup
	for i, kind := range kinds {
		clients.Go(func() {
			err := scratch.Until(ctx, measurePatience, kind.try)
			waits[i] = wait{kind.what, time.Since(from), err}
		})
	}
	clients.Wait()
	return waits
}

// write writes an object.
func write(ctx context.Context, kube kubernetes.Interface, name string) error {
	maps := kube.CoreV1().ConfigMaps("default")
	object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"at": time.Now().String()}}
	_, err := maps.Update(ctx, object, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		_, err = maps.Create(ctx, object, metav1.CreateOptions{})
	}
	return err
}

// schedules runs a pod that nothing has run before the fault.
func (c *cluster) schedules(ctx context.Context, m *master, from time.Time) error {
	pods, name := m.kube.CoreV1().Pods("default"), fmt.Sprintf("after-%d", from.UnixMilli())
	p, err := pods.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		fresh := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: pod("exit 0")}
		fresh.Spec.RestartPolicy = corev1.RestartPolicyNever
		p, err = pods.Create(ctx, fresh, metav1.CreateOptions{})
	}
	if err != nil {
		return err
	}
	if p.Status.Phase != corev1.PodSucceeded {
		return fmt.Errorf("the pod is %s on node %q", p.Status.Phase, p.Spec.NodeName)
	}
	return nil
}

// beats returns nil when all kubelets have renewed their leases after the fault.
func beats(ctx context.Context, m *master, from time.Time) error {
	renewed, err := nodeLeases(ctx, m.kube)
	if err != nil {
		return err
	}
	for _, at := range renewed {
		if at.Before(from) {
			return fmt.Errorf("a node's lease was renewed last %s before the fault", from.Sub(at))
		}
	}
	return nil
}
