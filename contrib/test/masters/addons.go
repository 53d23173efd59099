package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/k8sm/k8sm/api"
	logs "github.com/k8sm/k8sm/contrib/logs/client"
	"github.com/k8sm/k8sm/contrib/logs/read"
	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// Kinds of clients of add-ons.
const (
	elsewhere = "DNS, metrics and logs elsewhere"
	page      = "the web page elsewhere"
	top       = "kubectl top"
	logLines  = "km logs"
	v1beta1   = "v1beta1"
)

// addOns is a machine with a server of each add-on and no API server. It knows that of the first master, and finds the others.
type addOns struct {
	master
	browser http.Client // which is logged in to the web page
}

// oldAddress is where an API server answers clients of 2014, in its own namespace.
const oldAddress = "127.0.0.1:8080"

// startAddOns starts the machine with what it needs of the first master, and returns when all add-ons work.
func (c *cluster) startAddOns(ctx context.Context) error {
	a, first := c.addOns, c.masters[0].dir
	files := []string{"pki", "etcd.json"}
	for _, kubeconfig := range []string{"admin", "dns", "metrics", "logs"} {
		files = append(files, kubeconfig+".kubeconfig")
	}
	for _, file := range files {
		if out, err := exec.CommandContext(ctx, "cp", "-a", filepath.Join(first, file), a.dir).CombinedOutput(); err != nil {
			return fmt.Errorf("cannot copy %s: %w: %s", file, err, out)
		}
	}
	c.supervise(ctx, &a.master, [][]string{
		{"dns", "--address=" + a.address}, {"metrics", "--address=" + a.address}, {"logstore", "--address=" + a.address}, {"ui", "--address=" + a.address + ":8444"},
	})
	if _, err := c.masters[0].kube.CoreV1().Pods("default").Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: clock}, Spec: pod("while sleep 1; do date; done")}, metav1.CreateOptions{}); err != nil {
		return err
	}
	from := time.Now()
	return scratch.Until(ctx, startPatience, func(ctx context.Context) error {
		problems := []error{a.running()}
		if a.browser.Jar == nil {
			problems = append(problems, a.logIn(ctx))
		}
		for _, p := range c.addOnProbers(c.masters, from) {
			if err := p.try(ctx); err != nil {
				problems = append(problems, fmt.Errorf("%s: %w", p.kind, err))
			}
		}
		return errors.Join(problems...)
	})
}

// logIn follows the link that km ui has printed, which works once.
func (a *addOns) logIn(ctx context.Context) error {
	said, err := os.ReadFile(filepath.Join(a.logs, "ui.log"))
	if err != nil {
		return err
	}
	_, after, ok := strings.Cut(string(said), "Web: ")
	if !ok {
		return errors.New("the web page has no link yet")
	}
	_, key, _ := strings.Cut(strings.Fields(after)[0], "#key=")
	text, err := json.Marshal(map[string]string{"secret": key})
	if err != nil {
		return err
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, a.page("/auth/key"), bytes.NewReader(text))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	browser := http.Client{Jar: jar, Timeout: kubeTimeout, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} // as a browser after its warning
	if err := succeeds(browser.Do(request)); err != nil {
		return err
	}
	a.browser = browser
	return nil
}

func (a *addOns) page(path string) string {
	return "https://" + net.JoinHostPort(a.address, "8444") + path
}

func succeeds(response *http.Response, err error) error {
	if err != nil {
		return err
	}
	_ = response.Body.Close()
	if response.StatusCode/100 != 2 {
		return errors.New(response.Status)
	}
	return nil
}

// addOnProbers return those that work with add-ons while only the others are well.
func (c *cluster) addOnProbers(others []*master, from time.Time) []prober {
	name, a := fmt.Sprintf("after-%d", from.UnixMilli()), c.addOns
	all := []prober{
		{elsewhere, false, func(ctx context.Context) error {
			return errors.Join(a.renews(ctx, others[0].kube, from), c.learns(ctx, others[0].kube, name))
		}},
		{page, true, func(ctx context.Context) error {
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, a.page("/api/k8s/api/v1/nodes"), nil)
			if err != nil {
				return err
			}
			return succeeds(a.browser.Do(request))
		}},
	}
	for _, m := range others {
		all = append(all, prober{top, true, m.tops}, prober{logLines, true, m.reads}, prober{v1beta1, true, m.answersOld})
	}
	return all
}

// renews returns nil when the servers of all add-ons here have told an API server after the fault that they work.
func (a *addOns) renews(ctx context.Context, kube kubernetes.Interface, from time.Time) error {
	for _, m := range []api.Membership{api.DNSMembership(), api.MetricsMembership(), api.LogsMembership()} {
		list, err := kube.CoordinationV1().Leases(m.LeaseNamespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		renewed := false
		for _, lease := range list.Items {
			renewed = renewed || strings.Contains(lease.Name, a.name) && lease.Spec.RenewTime != nil && lease.Spec.RenewTime.After(from)
		}
		if !renewed {
			return fmt.Errorf("no lease in %s was renewed by %s", m.LeaseNamespace, a.name)
		}
	}
	return nil
}

// learns makes a service, and asks the DNS server of that machine for it, from a node, until that knows it. Then it removes the service.
func (c *cluster) learns(ctx context.Context, kube kubernetes.Interface, name string) error {
	services := kube.CoreV1().Services("default")
	_, err := services.Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	asking, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return c.dial(ctx, network, net.JoinHostPort(c.addOns.address, "10053"))
	}}
	if _, err := r.LookupHost(asking, name+".default.svc.cluster.local."); err != nil {
		return err
	}
	return services.Delete(ctx, name, metav1.DeleteOptions{})
}

// tops is kubectl top nodes at the master's API server.
func (m *master) tops(ctx context.Context) error {
	text, err := m.kube.Discovery().RESTClient().Get().AbsPath("/apis/metrics.k8s.io/v1beta1/nodes").Timeout(kubeTimeout).DoRaw(ctx)
	if err != nil {
		return err
	}
	var list struct {
		Items []struct{ Timestamp time.Time }
	}
	if err := json.Unmarshal(text, &list); err != nil {
		return err
	}
	if len(list.Items) != agentCount {
		return fmt.Errorf("there are metrics of %d nodes", len(list.Items))
	}
	for _, node := range list.Items {
		if age := time.Since(node.Timestamp); age > freshMetrics {
			return fmt.Errorf("metrics are %s old", age)
		}
	}
	return nil
}

const (
	// freshMetrics is three times as long as metrics servers take to read all metrics again.
	freshMetrics = 45 * time.Second
	// freshLines is how old the last line may be of a pod that writes one each second.
	freshLines = 5 * time.Second
	// clock is that pod.
	clock = "clock"
)

// reads is km logs clock --since=5s at the master's API server.
func (m *master) reads(ctx context.Context) error {
	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(m.dir, "admin.kubeconfig"))
	if err != nil {
		return err
	}
	config.Timeout = kubeTimeout
	client, err := logs.New(config)
	if err != nil {
		return err
	}
	lines, since := 0, url.Values{read.ParamSince: {time.Now().Add(-freshLines).UTC().Format(time.RFC3339Nano)}}
	err = client.Lines(ctx, logs.Place{Resource: "pods", Namespace: "default", Pod: clock}, since, nil, func(read.Line) error { lines++; return nil })
	if err == nil && lines == 0 {
		err = fmt.Errorf("no line is younger than %s", freshLines)
	}
	return err
}

// answersOld asks for pods as a client of 2014 on the master's machine does.
func (m *master) answersOld(ctx context.Context) error {
	dial := func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		err = m.enter(func() error {
			conn, err = new(net.Dialer).DialContext(ctx, network, address)
			return err
		})
		return conn, err
	}
	ctx, cancel := context.WithTimeout(ctx, kubeTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+oldAddress+"/api/v1beta1/pods", nil)
	if err != nil {
		return err
	}
	fresh := &http.Transport{DisableKeepAlives: true, DialContext: dial}
	return succeeds(fresh.RoundTrip(request))
}
