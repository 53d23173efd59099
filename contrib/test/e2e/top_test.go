package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/statedir"
	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// usagePath is where the API tells how much the nodes use.
const usagePath = "/apis/metrics.k8s.io/v1beta1/nodes"

// historyPath is where the API answers PromQL.
const historyPath = "/apis/monitoring.k8sm.io/v1/prometheus/api/v1/query"

// topShowsUsage has kubectl top show a node, and a pod that keeps a processor busy.
func topShowsUsage(t *testing.T, c *scratch.Cluster) {
	p := create(t, c, pod("busy", "while :; do :; done"))
	awaitPhase(t, c, p.Name, corev1.PodRunning)
	topShows(t, c, `(?m)^\S+ +\d+m +\d+% +\d+Mi +\d+%`, "nodes")
	topShows(t, c, `(?m)^default +busy +[1-9]\d+m +\d+Mi`, "pods", "--all-namespaces")
	remove(t, c, p)
}

func topShows(t *testing.T, c *scratch.Cluster, want string, args ...string) {
	t.Helper()
	err := scratch.Until(t.Context(), 2*time.Minute, func(ctx context.Context) error {
		out, err := c.KM(ctx, append([]string{"kubectl", "top"}, args...)...).CombinedOutput()
		if err != nil || !regexp.MustCompile(want).Match(out) {
			return fmt.Errorf("kubectl top %v: %w:\n%s", args, err, out)
		}
		t.Logf("%s", out)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// metricsAreKept asks for what the metrics server has read, and who may ask.
func metricsAreKept(t *testing.T, c *scratch.Cluster, dir string) {
	p := pod("shop", "mkdir -p /www; echo 'shop_orders_total 7' > /www/metrics; httpd -f -p 8080 -h /www")
	p.Labels = map[string]string{"app": "shop"}
	p.Annotations = map[string]string{"prometheus.io/scrape": "true", "prometheus.io/port": "8080"}
	p = create(t, c, p)
	awaitPhase(t, c, p.Name, corev1.PodRunning)
	want := []string{"apiserver", "coredns", "etcd", "k8sm-logs", "k8sm-metrics", "k8sm-minion", "k8sm-scheduler", "kube-proxy", "kubelet", "mesos", "pods"}
	err := scratch.Until(t.Context(), 2*time.Minute, func(ctx context.Context) error {
		up, err := queried(ctx, c, `count by (job) (up == 1) unless count by (job) (up == 0)`)
		if err != nil {
			return err
		}
		if diff := cmp.Diff(want, slices.Sorted(maps.Keys(up))); diff != "" {
			return fmt.Errorf("jobs whose targets all answer (-want +got):\n%s", diff)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	for query, is := range map[string]func(map[string]string) bool{
		`sum by (job) (shop_orders_total{app="shop",namespace="default",pod="shop"})`:   func(got map[string]string) bool { return got["pods"] == "7" },
		`count by (job) (apiserver_request_total)`:                                      func(got map[string]string) bool { return got["apiserver"] != "" },
		`max by (job) (mesos_up)`:                                                       func(got map[string]string) bool { return got["mesos"] == "1" },
		`count by (job) (container_memory_working_set_bytes{pod="shop",container!=""})`: func(got map[string]string) bool { return got["kubelet"] == "1" },
		`max by (job) (kubelet_node_name)`:                                              func(got map[string]string) bool { return got["kubelet"] == "1" },
	} {
		err := scratch.Until(t.Context(), time.Minute, func(ctx context.Context) error { // the pod is younger than an interval
			got, err := queried(ctx, c, query)
			if err == nil && !is(got) {
				err = fmt.Errorf("%s is %v", query, got)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	usageIsForViewers(t, c)
	profilesOfMetricsAreForAdministrators(t, c, dir)
	remove(t, c, p)
	kill(t, c, "metrics")
	err = scratch.Until(t.Context(), time.Minute, func(ctx context.Context) error {
		got, err := queried(ctx, c, `max by (job) (last_over_time(shop_orders_total[10m]))`)
		if err == nil && got["pods"] != "7" {
			err = fmt.Errorf("it has forgotten %v", got)
		}
		return err
	})
	if err != nil {
		t.Errorf("a server that was killed: %v", err)
	}
	if out, err := c.KM(within(t, 30*time.Second), "metrics", "query", "sum(").CombinedOutput(); err == nil || !containsAll(string(out), []string{`km: cannot evaluate "sum("`, "1:5"}) {
		t.Errorf("an expression that is none: %v\n%s", err, out)
	}
	queriesAreForThoseWhoMay(t, c, dir)
}

// profilesOfMetricsAreForAdministrators asks the metrics server itself, where it listens.
func profilesOfMetricsAreForAdministrators(t *testing.T, c *scratch.Cluster, dir string) {
	servers, err := c.Kube.DiscoveryV1().EndpointSlices(api.MetricsServiceNamespace).List(t.Context(), metav1.ListOptions{LabelSelector: api.LabelMetricsServer})
	if err != nil || len(servers.Items) != 1 {
		t.Fatalf("the metrics servers: %+v, %v", servers, err)
	}
	at := servers.Items[0]
	url := fmt.Sprintf("https://%s/debug/pprof/goroutine?debug=1", net.JoinHostPort(at.Endpoints[0].Addresses[0], strconv.Itoa(int(*at.Ports[0].Port))))
	for kubeconfig, want := range map[string]int{"admin": http.StatusOK, "metrics": http.StatusForbidden, "scheduler": http.StatusForbidden} {
		who := rest.CopyConfig(userOf(t, c, filepath.Join(dir, kubeconfig+".kubeconfig")).config)
		who.ServerName = statedir.MetricsServerName
		if code, body, err := answers(who, url); err != nil || code != want || strings.Contains(body, "goroutine profile") != (want == http.StatusOK) {
			t.Errorf("profiles as %s: %d, %v: %.300s", kubeconfig, code, err, body)
		}
	}
}

// usageIsForViewers asks what pods used as a viewer of one namespace. The aggregated API and the API server before it decide.
func usageIsForViewers(t *testing.T, c *scratch.Cluster) {
	viewer := serviceAccountUser(t, c, "usage-viewer")
	usage := func(namespace, what string) (string, error) {
		path := "/apis/monitoring.k8sm.io/v1/namespaces/" + namespace + "/pods/*/" + what
		body, err := viewer.kube.CoreV1().RESTClient().Get().AbsPath(path).Do(t.Context()).Raw()
		return string(body), err
	}
	if body, err := usage("default", "memory"); !apierrors.IsForbidden(err) {
		t.Errorf("without the right: %v %.300s", err, body)
	}
	if _, err := c.Kube.RbacV1().RoleBindings("default").Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "usage-viewer"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: "default", Name: "usage-viewer"}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, what := range []string{"cpu", "memory", "network-received", "network-sent"} {
		err := scratch.Until(t.Context(), 2*time.Minute, func(context.Context) error { // a refusal is remembered for 10 s; a rate needs two readings
			body, err := usage("default", what)
			if err == nil && !strings.Contains(body, `"pod":"shop"`) {
				err = fmt.Errorf("there is no shop: %.500s", body)
			}
			return err
		})
		if err != nil {
			t.Errorf("a viewer reads %s: %v", what, err)
		}
		if body, err := usage("kube-system", what); !apierrors.IsForbidden(err) {
			t.Errorf("a viewer reads %s of another namespace: %v %.300s", what, err, body)
		}
	}
}

// serviceAccountUser makes a service account in the namespace default, and returns a client that is it.
func serviceAccountUser(t *testing.T, c *scratch.Cluster, name string) apiUser {
	t.Helper()
	account, err := c.Kube.CoreV1().ServiceAccounts("default").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	token, err := c.Kube.CoreV1().ServiceAccounts("default").CreateToken(t.Context(), account.Name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return tokenUser(t, c, token.Status.Token)
}

// queried is the value of a query by job, as km metrics query shows it.
func queried(ctx context.Context, c *scratch.Cluster, query string) (map[string]string, error) {
	out, err := c.KM(ctx, "metrics", "query", query, "-o", "json").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("km metrics query %s: %w: %s", query, err, out)
	}
	var answer struct {
		Result []struct {
			Metric map[string]string
			Value  [2]any
		}
	}
	if err := json.Unmarshal(out, &answer); err != nil {
		return nil, fmt.Errorf("km metrics query %s: %w: %s", query, err, out)
	}
	values := map[string]string{}
	for _, r := range answer.Result {
		values[r.Metric["job"]] = fmt.Sprint(r.Value[1])
	}
	return values, nil
}

// queriesAreForThoseWhoMay asks as users without the right, and as one who got it.
func queriesAreForThoseWhoMay(t *testing.T, c *scratch.Cluster, dir string) {
	grafana, dns := serviceAccountUser(t, c, "grafana"), userOf(t, c, filepath.Join(dir, "dns.kubeconfig"))
	ask := func(as apiUser, method string) error {
		return as.kube.CoreV1().RESTClient().Verb(method).AbsPath(historyPath).Param("query", "up").Do(t.Context()).Error()
	}
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		if err := ask(grafana, method); !apierrors.IsForbidden(err) {
			t.Errorf("%s without the right: %v", method, err)
		}
		if err := ask(dns, method); !apierrors.IsForbidden(err) {
			t.Errorf("%s as the DNS: %v", method, err)
		}
	}
	if _, err := c.Kube.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "grafana"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "k8sm:prometheus-reader"},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: "default", Name: "grafana"}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		err := scratch.Until(t.Context(), 30*time.Second, func(context.Context) error { return ask(grafana, method) }) // a refusal is remembered for 10 s
		if err != nil {
			t.Errorf("%s with the right: %v", method, err)
		}
	}
	for _, path := range []string{"/apis/monitoring.k8sm.io/v1/prometheus/api/v1/admin/tsdb/delete_series", "/apis/monitoring.k8sm.io/v1/prometheus/api/v1/write"} {
		if err := c.Kube.CoreV1().RESTClient().Post().AbsPath(path).Param("match[]", "up").Do(t.Context()).Error(); !apierrors.IsNotFound(err) {
			t.Errorf("an administrator writes by %s: %v", path, err)
		}
	}
}

// nothingOfMetricsIsThere looks for what a metrics server would leave in a cluster, on the machine and in the state directory.
func nothingOfMetricsIsThere(t *testing.T, c *scratch.Cluster, dir string) {
	groups, err := c.Kube.Discovery().ServerGroups()
	if err != nil {
		t.Fatal(err)
	}
	for _, group := range groups.Groups {
		if group.Name == "metrics.k8s.io" || group.Name == api.MetricsGroup {
			t.Errorf("the API has %s", group.Name)
		}
	}
	if _, err := c.Kube.CoreV1().Services(api.MetricsServiceNamespace).Get(t.Context(), api.MetricsServiceName, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the service: %v", err)
	}
	processes, err := c.Processes()
	if err != nil || len(processes) == 0 {
		t.Fatalf("the processes: %v, %v", processes, err)
	}
	for _, p := range processes {
		if p.Role == "metrics" {
			t.Errorf("there is the process %+v", p)
		}
	}
	listener, err := net.Listen("tcp", fmt.Sprintf(":%d", c.Ports()["10260"]))
	if err != nil {
		t.Errorf("somebody listens: %v", err)
	} else {
		listener.Close()
	}
	if _, err := os.Stat(statedir.Dir(dir).Metrics()); !os.IsNotExist(err) {
		t.Errorf("metrics are kept: %v", err)
	}
	if out, err := c.KM(within(t, 30*time.Second), "kubectl", "top", "nodes").CombinedOutput(); err == nil || !strings.Contains(string(out), "Metrics API not available") {
		t.Errorf("kubectl top: %v %s", err, out)
	}
}
