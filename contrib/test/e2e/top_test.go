package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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
	account, err := c.Kube.CoreV1().ServiceAccounts("default").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "grafana"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	token, err := c.Kube.CoreV1().ServiceAccounts("default").CreateToken(t.Context(), account.Name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	grafana, dns := tokenUser(t, c, token.Status.Token), userOf(t, filepath.Join(dir, "dns.kubeconfig"))
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
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: account.Namespace, Name: account.Name}},
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
