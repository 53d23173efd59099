package e2e

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// minionReaders are who asks a minion for its metrics. All check its certificate.
func minionReaders(t *testing.T, c *scratch.Cluster, dir string) map[string]*rest.Config {
	t.Helper()
	readers := map[string]*rest.Config{"nobody": rest.AnonymousClientConfig(c.REST), "an invented token": rest.AnonymousClientConfig(c.REST)}
	for name, file := range map[string]string{"the administrator": "admin.kubeconfig", "the controller manager": "controller-manager.kubeconfig"} {
		config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		readers[name] = config
	}
	readers["an invented token"].BearerToken = "not.a.token"
	readers["a scraper"] = rest.AnonymousClientConfig(c.REST)
	readers["a scraper"].BearerToken = scraperToken(t, c)
	for _, config := range readers {
		config.CAData, config.CAFile = nil, filepath.Join(dir, "pki", "kubelet-serving-ca.crt")
	}
	return readers
}

// scraperToken is the token of a service account that may read nodes' metrics.
func scraperToken(t *testing.T, c *scratch.Cluster) string {
	t.Helper()
	meta := metav1.ObjectMeta{Name: "scraper"}
	account, err := c.Kube.CoreV1().ServiceAccounts("default").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: meta}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Kube.RbacV1().ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"nodes/metrics"}, Verbs: []string{"get"}},
	}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Kube.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: meta.Name},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: account.Namespace, Name: account.Name}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	token, err := c.Kube.CoreV1().ServiceAccounts("default").CreateToken(t.Context(), account.Name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return token.Status.Token
}

// minionAnswers waits until the only node's minion has a certificate.
func minionAnswers(t *testing.T, c *scratch.Cluster, who *rest.Config, path string) (code int, body string) {
	t.Helper()
	err := scratch.Until(t.Context(), time.Minute, func(context.Context) (err error) {
		code, body, err = answers(who, onMinion(onlyNode(t, c), path))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return code, body
}

// minionServesMetrics asks the only node's minion. A pod runs there.
func minionServesMetrics(t *testing.T, c *scratch.Cluster, dir string) {
	readers := minionReaders(t, c, dir)
	for name, want := range map[string][3]int{ // of /metrics, /metrics/proxy and profiles
		"nobody":                 {http.StatusUnauthorized, http.StatusUnauthorized, http.StatusUnauthorized},
		"an invented token":      {http.StatusUnauthorized, http.StatusUnauthorized, http.StatusUnauthorized},
		"the controller manager": {http.StatusForbidden, http.StatusForbidden, http.StatusForbidden},
		"a scraper":              {http.StatusOK, http.StatusOK, http.StatusForbidden},
		"the administrator":      {http.StatusOK, http.StatusOK, http.StatusOK},
	} {
		for i, path := range []string{"/metrics", "/metrics/proxy", "/debug/pprof/goroutine"} {
			if code, body := minionAnswers(t, c, readers[name], path); code != want[i] {
				t.Errorf("%s gets %d from %s, want %d: %.300s", name, code, path, want[i], body)
			}
		}
	}
	_, own := minionAnswers(t, c, readers["a scraper"], "/metrics")
	for _, series := range []string{
		`k8sm_minion_starts_total{part="kubelet"} 1`, `k8sm_minion_cri_call_duration_seconds_count{code="OK",method="RunPodSandbox"}`,
		`k8sm_minion_containers_running{kind="sandbox"}`, `k8sm_minion_sync_duration_seconds_count{result="ok",what="policies"}`, "process_resident_memory_bytes",
	} {
		if !strings.Contains(own, series) {
			t.Errorf("the minion's metrics have no %s:\n%s", series, own)
		}
	}
	for series, want := range map[string]string{`k8sm_minion_sync_duration_seconds_count{result="failed",what="network"}`: "0", `k8sm_minion_containers_running{kind="container"}`: ""} {
		if got := valueOf(own, series); got == "" || want != "" && got != want {
			t.Errorf("%s is %q, want %q", series, got, want)
		}
	}
	if _, proxy := minionAnswers(t, c, readers["a scraper"], "/metrics/proxy"); !strings.Contains(proxy, "\nkubeproxy_sync_proxy_rules_duration_seconds_count") {
		t.Errorf("the proxy's metrics are:\n%.2000s", proxy)
	}
}

// valueOf is the value of a series in the text of metrics; "" if there is none.
func valueOf(text, series string) (value string) {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, series+" "); ok {
			_, _ = fmt.Sscan(rest, &value)
		}
	}
	return value
}
