package controlplane

import (
	"context"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/statedir"
)

// levelOf returns the priority level in which the API server serves a request, by its headers
// (https://kubernetes.io/docs/concepts/cluster-administration/flow-control/#diagnostics).
func levelOf(t *testing.T, admin kubernetes.Interface, config *rest.Config, path string) string {
	t.Helper()
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Get(config.Host + path)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	levels, err := admin.FlowcontrolV1().PriorityLevelConfigurations().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, level := range levels.Items {
		if string(level.UID) == response.Header.Get(flowcontrolv1.ResponseHeaderMatchedPriorityLevelConfigurationUID) {
			return level.Name
		}
	}
	return "none"
}

const nodeLeases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1"

// testFlows looks with whom the scheduler, the DNS and the nodes share the API server's concurrency.
func testFlows(t *testing.T, dir statedir.Dir, admin kubernetes.Interface) {
	for _, test := range []struct{ user, group, path, want string }{
		{api.SchedulerUser, "", nodeLeases, flowLevel},
		{api.SchedulerUser, "", "/api/v1/pods?limit=1", flowLevel},
		{api.DNSUser, "", "/apis/discovery.k8s.io/v1/endpointslices?limit=1", flowLevel},
		{"system:node:n1", "system:nodes", nodeLeases, "node-high"},
		{"system:node:n1", "system:nodes", "/api/v1/services?limit=1", "system"},
		{tenantUser, "", "/api/v1/namespaces/tenant/pods", "global-default"},
		{"system:serviceaccount:tenant:default", "system:serviceaccounts", "/api/v1/namespaces/tenant/pods", "workload-low"},
	} {
		eventually(t, func(context.Context) string {
			if got := levelOf(t, admin, configAs(t, dir, test.user, test.group), test.path); got != test.want {
				return test.user + " at " + test.path + " is served in the level " + got + ", want " + test.want
			}
			return ""
		})
	}
}

// hang occupies the API server until ctx ends: it sends a request whose body never comes. It returns the answer's code, 0 for none.
func hang(ctx context.Context, client *http.Client, server string) int {
	body, writer := io.Pipe()
	defer writer.Close()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, server+"/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body)
	if err != nil {
		return 0
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := client.Do(request)
	if err != nil {
		return 0
	}
	_ = response.Body.Close()
	return response.StatusCode
}

// narrow leaves the tenants' level a few requests at a time, and refuses more instead of queueing them.
const narrow = `{"metadata":{"annotations":{"apf.kubernetes.io/autoupdate-spec":"false"}},
	"spec":{"limited":{"nominalConcurrencyShares":1,"borrowingLimitPercent":0,"limitResponse":{"type":"Reject","queuing":null}}}}`

// testFlood has a tenant without rights use up all requests that tenants may make at a time.
func testFlood(t *testing.T, dir statedir.Dir, admin kubernetes.Interface) {
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
	if _, err := admin.CoordinationV1().Leases(corev1.NamespaceNodeLease).Create(t.Context(), lease, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	levels := admin.FlowcontrolV1().PriorityLevelConfigurations()
	if _, err := levels.Patch(t.Context(), "global-default", types.MergePatchType, []byte(narrow), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	config := configAs(t, dir, "flooder")
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var flood sync.WaitGroup
	defer flood.Wait()
	defer cancel()
	full := make(chan struct{}, 1)
	for range 12 {
		flood.Go(func() {
			for ctx.Err() == nil {
				if hang(ctx, client, config.Host) == http.StatusTooManyRequests {
					select {
					case full <- struct{}{}:
					default:
					}
				}
			}
		})
	}
	select {
	case <-full:
	case <-time.After(time.Minute):
		t.Fatal("the flood is never refused")
	}
	checkServed(t, dir, admin)
	restored := []byte(`{"metadata":{"annotations":{"apf.kubernetes.io/autoupdate-spec":"true"}}}`)
	if _, err := levels.Patch(t.Context(), "global-default", types.MergePatchType, restored, metav1.PatchOptions{}); err != nil {
		t.Error(err)
	}
}

// patience is how long the scheduler waits for an answer.
const patience = 15 * time.Second

// checkServed does, during a flood, what must not wait longer than that.
func checkServed(t *testing.T, dir statedir.Dir, admin kubernetes.Interface) {
	pod := annotated("during-the-flood", nil)
	if _, err := admin.CoreV1().Pods(metav1.NamespaceDefault).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	scheduler, dns, node := schedulerClient(t, dir), as(t, dir, api.DNSUser), asNode(t, dir, "n1")
	renew := func(client kubernetes.Interface) func(context.Context) error {
		return func(ctx context.Context) error {
			leases := client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
			lease, err := leases.Get(ctx, "n1", metav1.GetOptions{})
			if err == nil {
				_, err = leases.Update(ctx, lease, metav1.UpdateOptions{})
			}
			return err
		}
	}
	for what, do := range map[string]func(context.Context) error{
		"the scheduler renews a node's lease": renew(scheduler),
		"a node renews its lease":             renew(node),
		"the scheduler binds a pod": func(ctx context.Context) error {
			return scheduler.CoreV1().Pods(metav1.NamespaceDefault).Bind(ctx, &corev1.Binding{
				ObjectMeta: metav1.ObjectMeta{Name: pod.Name}, Target: corev1.ObjectReference{Kind: "Node", Name: "n1"},
			}, metav1.CreateOptions{})
		},
		"the DNS lists endpoints": func(ctx context.Context) error {
			_, err := dns.DiscoveryV1().EndpointSlices("").List(ctx, metav1.ListOptions{})
			return err
		},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		accepted(t, what, do(ctx))
		cancel()
	}
}
