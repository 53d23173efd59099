package controlplane

import (
	"net/netip"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/statedir"
)

// testAddressPools has the scheduler fill the ConfigMap, which nodes read and cannot write, and which a restart leaves as it is.
func testAddressPools(t *testing.T, dir statedir.Dir, admin kubernetes.Interface) {
	config, err := clientcmd.BuildConfigFromFlags("", dir.SchedulerKubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	data, err := api.AddressPools{Prefixes: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/30")}}.Data()
	if err != nil {
		t.Fatal(err)
	}
	scheduler := clientOf(t, config).CoreV1().ConfigMaps(api.AddressPoolsNamespace)
	object, err := scheduler.Get(t.Context(), api.AddressPoolsName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	object.Data = data
	if _, err := scheduler.Update(t.Context(), object, metav1.UpdateOptions{}); err != nil {
		t.Error(err)
	}
	object.Name, object.ResourceVersion = "another", ""
	if _, err := scheduler.Create(t.Context(), object, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("the scheduler creates another ConfigMap: %v", err)
	}
	if err := apply(t.Context(), dynamic.NewForConfigOrDie(adminConfig(t, dir)), addressPools()); err != nil {
		t.Fatal(err)
	}
	if object, err := scheduler.Get(t.Context(), api.AddressPoolsName, metav1.GetOptions{}); err != nil || object.Data[api.AddressPoolsKey] != data[api.AddressPoolsKey] {
		t.Errorf("after a restart of the control plane: %v, %v", object.Data, err)
	}
	for verb, may := range map[string]bool{"get": true, "list": true, "watch": true, "update": false, "patch": false, "delete": false} {
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User: "system:node:n1", Groups: []string{"system:nodes", "system:authenticated"},
			ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: verb, Resource: "configmaps", Namespace: api.AddressPoolsNamespace, Name: api.AddressPoolsName},
		}}
		r, err := admin.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), review, metav1.CreateOptions{})
		if err != nil || r.Status.Allowed != may {
			t.Errorf("may a node %s the address pools: %v, %v", verb, r.Status.Allowed, err)
		}
	}
}
