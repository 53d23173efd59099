package controlplane

import (
	"context"
	"fmt"
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	aggregator "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/statedir"
)

const resourceMetricsAPI, historyAPI = "v1beta1.metrics.k8s.io", "v1.monitoring.k8sm.io"

func aggregatorOf(t *testing.T, dir statedir.Dir) aggregator.Interface {
	t.Helper()
	client, err := aggregator.NewForConfig(adminConfig(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// serveHistory has somebody else than km serve an API of the metrics servers.
func serveHistory(t *testing.T, dir statedir.Dir) {
	t.Helper()
	_, err := aggregatorOf(t, dir).ApiregistrationV1().APIServices().Create(t.Context(), &apiregistrationv1.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: historyAPI},
		Spec:       apiregistrationv1.APIServiceSpec{Group: api.MetricsGroup, Version: api.MetricsVersion, GroupPriorityMinimum: 7, VersionPriority: 7},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// historyIsTheirs runs after serveHistory.
func historyIsTheirs(t *testing.T, dir statedir.Dir) {
	t.Helper()
	service, err := aggregatorOf(t, dir).ApiregistrationV1().APIServices().Get(t.Context(), historyAPI, metav1.GetOptions{})
	if err != nil || service.Spec.Service != nil || service.Spec.VersionPriority != 7 {
		t.Errorf("%s was taken from its owner: %+v, %v", historyAPI, service, err)
	}
}

// testMetricsServers runs on a control plane with metrics servers. It leaves one behind that was killed.
func testMetricsServers(t *testing.T, dir statedir.Dir, admin kubernetes.Interface) {
	m, apis := api.MetricsMembership(), aggregatorOf(t, dir).ApiregistrationV1().APIServices()
	testMemberLimits(t, m, dir.MetricsKubeconfig(), admin)
	name := m.ObjectPrefix() + "killed"
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{m.Label: "killed"}}}
	if _, err := admin.CoordinationV1().Leases(m.LeaseNamespace).Create(t.Context(), lease, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.DiscoveryV1().EndpointSlices(m.Namespace).Create(t.Context(), slice(m, name, "killed", m.Service), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func(ctx context.Context) string {
		service, err := apis.Get(ctx, resourceMetricsAPI, metav1.GetOptions{})
		if err != nil || service.Spec.Service == nil || service.Spec.Service.Name != api.MetricsServiceName || len(service.Spec.CABundle) == 0 {
			return fmt.Sprintf("%s is %+v, %v", resourceMetricsAPI, service, err)
		}
		return ""
	})
	historyIsTheirs(t, dir)
}

// testNoMetricsRemain runs after testMetricsServers, on a control plane without metrics servers.
func testNoMetricsRemain(t *testing.T, dir statedir.Dir) {
	if _, err := aggregatorOf(t, dir).ApiregistrationV1().APIServices().Get(t.Context(), resourceMetricsAPI, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the API leads nowhere and is still there: %v", err)
	}
	historyIsTheirs(t, dir)
	admin, m := clientOf(t, adminConfig(t, dir)), api.MetricsMembership()
	if _, err := admin.CoreV1().Services(m.Namespace).Get(t.Context(), m.Service, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the service of the metrics servers is still there: %v", err)
	}
	all := metav1.ListOptions{LabelSelector: m.Label}
	if slices, err := admin.DiscoveryV1().EndpointSlices("").List(t.Context(), all); err != nil || len(slices.Items) > 0 {
		t.Errorf("endpoints of metrics servers are left: %v, %v", slices, err)
	}
	if leases, err := admin.CoordinationV1().Leases("").List(t.Context(), all); err != nil || len(leases.Items) > 0 {
		t.Errorf("leases of metrics servers are left: %v, %v", leases, err)
	}
	namespaces := admin.CoreV1().Namespaces()
	namespace, err := namespaces.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "brief-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := namespaces.Delete(t.Context(), namespace.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func(ctx context.Context) string {
		got, err := namespaces.Get(ctx, namespace.Name, metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			return fmt.Sprintf("a namespace is not deleted: %v, %v", got.Status, err)
		}
		return ""
	})
}
