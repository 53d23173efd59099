package controlplane

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/nodeslices"
)

// object is an add-on: an API object that exists in every k8sm cluster.
type object interface {
	metav1.Object
	runtime.Object
}

func kindOf(o object) string { return o.GetObjectKind().GroupVersionKind().Kind }

// fieldManager owns the add-ons' fields in server-side apply
// (https://kubernetes.io/docs/reference/using-api/server-side-apply/).
const fieldManager = "k8sm"

// addOns returns all add-ons in the order of creation.
func (c Config) addOns() ([]object, error) {
	minions, err := c.minionConfig()
	if err != nil {
		return nil, err
	}
	cas, err := c.StateDir.ForNodes()
	if err != nil {
		return nil, err
	}
	minions.CA, minions.KubeletServingCA, minions.KubeletServingChain = cas.CA, cas.KubeletServingCA, cas.KubeletServingChain
	config, err := minionConfigMap(minions)
	if err != nil {
		return nil, err
	}
	return slices.Concat(c.dns(), []object{namespace(nodeslices.Namespace)}, commits(), rbac(minions), flowControl(), []object{config, addressPools()}, c.policies(), c.metrics(), c.logs()), nil
}

// isService says of an add-on that it may need an address, which the API server gives only when it is ready.
func isService(o object) bool { return kindOf(o) == "Service" }

// applyServices applies those of the add-ons, and removes add-ons of earlier starts that are no longer among them or those that follow
// later. It runs at each start.
func applyServices(ctx context.Context, client dynamic.Interface, addOns, later []object) error {
	services := slices.DeleteFunc(slices.Clone(addOns), func(o object) bool { return !isService(o) })
	if err := applyAll(ctx, client, services); err != nil {
		return err
	}
	wanted := slices.Concat(addOns, later)
	for _, kind := range removable {
		if err := untilDone(ctx, func(ctx context.Context) error { return prune(ctx, client, kind, wanted) }); err != nil {
			return fmt.Errorf("cannot remove old add-ons of kind %s: %w", kind.Kind, err)
		}
	}
	return nil
}

// applyAll applies objects. It retries until ctx ends, because the API server may not have created their namespaces yet.
func applyAll(ctx context.Context, client dynamic.Interface, addOns []object) error {
	for _, o := range addOns {
		err := untilDone(ctx, func(ctx context.Context) error { return apply(ctx, client, o) })
		if err != nil && isService(o) && apierrors.IsInvalid(err) {
			return fmt.Errorf("cannot assign service %s its address: %w; delete the service that has it, or the old %[1]s, or set another address with --cluster-dns",
				o.GetName(), err)
		}
		if err != nil {
			return fmt.Errorf("cannot apply the add-on %s %s: %w", kindOf(o), o.GetName(), err)
		}
	}
	return nil
}

// untilDone calls do until it succeeds, retrying cannot help, or ctx ends. It returns the last error of do.
func untilDone(ctx context.Context, do func(context.Context) error) error {
	var last error
	once := func(ctx context.Context) (bool, error) {
		last = do(ctx)
		return last == nil, permanent(last)
	}
	if err := wait.PollUntilContextCancel(ctx, 200*time.Millisecond, true, once); err != nil {
		return cmp.Or(last, err)
	}
	return nil
}

// notYet ends the message with which an API server that starts forbids what its admission plugins cannot decide yet.
const notYet = "not yet ready to handle request"

// permanent returns the error if retrying cannot help.
func permanent(err error) error {
	if apierrors.IsForbidden(err) && strings.HasSuffix(err.Error(), notYet) {
		return nil
	}
	if apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) || apierrors.IsForbidden(err) {
		return err
	}
	return nil
}

func apply(ctx context.Context, client dynamic.Interface, o object) error {
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		return fmt.Errorf("cannot encode: %w", err)
	}
	_, err = resourceOf(client, o.GetObjectKind().GroupVersionKind()).Namespace(o.GetNamespace()).
		Apply(ctx, o.GetName(), &unstructured.Unstructured{Object: fields}, metav1.ApplyOptions{FieldManager: fieldManager, Force: kindOf(o) != "APIService"})
	if kindOf(o) == "APIService" && apierrors.IsConflict(err) { // such as a metrics-server's that the operator has installed
		logrus.Warnf("another program serves the API %s, and goes on to: delete this APIService if km is to serve it, and start again", o.GetName())
		return nil
	}
	return err
}

func resourceOf(client dynamic.Interface, kind schema.GroupVersionKind) dynamic.NamespaceableResourceInterface {
	resource, _ := meta.UnsafeGuessKindToResource(kind) // right for all kinds of add-ons
	return client.Resource(resource)
}

// removable are the kinds of add-ons that are removed when a start does without them: flags and later versions may do so. A rule comes
// before what it refers to. The others stay, because pods and minions may use them.
var removable = []schema.GroupVersionKind{
	apiregistrationv1.SchemeGroupVersion.WithKind("APIService"),
	corev1.SchemeGroupVersion.WithKind("Service"),
	admissionv1.SchemeGroupVersion.WithKind("ValidatingAdmissionPolicyBinding"),
	admissionv1.SchemeGroupVersion.WithKind("ValidatingAdmissionPolicy"),
	flowcontrolv1.SchemeGroupVersion.WithKind("FlowSchema"),
	flowcontrolv1.SchemeGroupVersion.WithKind("PriorityLevelConfiguration"),
	rbacv1.SchemeGroupVersion.WithKind("ClusterRoleBinding"),
	rbacv1.SchemeGroupVersion.WithKind("ClusterRole"),
	rbacv1.SchemeGroupVersion.WithKind("RoleBinding"),
	rbacv1.SchemeGroupVersion.WithKind("Role"),
}

// prune removes the objects of a kind that this program has applied and that are no add-ons any more.
func prune(ctx context.Context, client dynamic.Interface, kind schema.GroupVersionKind, addOns []object) error {
	wanted := map[types.NamespacedName]bool{}
	for _, o := range addOns {
		if o.GetObjectKind().GroupVersionKind() == kind {
			wanted[types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}] = true
		}
	}
	list, err := resourceOf(client, kind).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for i := range list.Items {
		o := &list.Items[i]
		if !applied(o) || wanted[types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}] {
			continue
		}
		uid := o.GetUID()
		err := resourceOf(client, kind).Namespace(o.GetNamespace()).
			Delete(ctx, o.GetName(), metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		logrus.Infof("removed the add-on %s %s", kind.Kind, o.GetName())
	}
	return nil
}

// applied reports whether an object is an add-on of this or another start.
func applied(o *unstructured.Unstructured) bool {
	named := strings.HasPrefix(o.GetName(), "k8sm") || o.GetKind() == "APIService" // whose name is that of the API
	return named && slices.ContainsFunc(o.GetManagedFields(), func(m metav1.ManagedFieldsEntry) bool {
		return m.Manager == fieldManager && m.Operation == metav1.ManagedFieldsOperationApply
	})
}

// minionConfig returns the minions' configuration.
func (c Config) minionConfig() (api.MinionConfig, error) {
	minions := c.Minions
	minions.ClusterDomain, minions.ClusterDNS = c.ClusterDomain, c.clusterDNS()
	minions.ClusterCIDR, minions.ServiceCIDR = c.ClusterCIDR, c.ServiceCIDR
	minions.RootDir, minions.DockerHost, minions.Logs = c.NodeRootDir, c.DockerHost, c.Logs
	eviction, err := api.ParseEviction(c.EvictionHard)
	if err != nil {
		return minions, fmt.Errorf("cannot use --eviction-hard=%s: %w", c.EvictionHard, err)
	}
	minions.EvictionHard = eviction
	if minions.Tracing.Endpoint == "" {
		minions.Tracing = api.Tracing{}
	}
	if minions.RegistryCAs, err = readRegistryCAs(c.RegistryCAs, time.Now()); err != nil {
		return minions, err
	}
	if minions.ImageRewrites, err = parseImageRewrites(c.ImageRewrites); err != nil {
		return minions, err
	}
	minions.TLSCipherSuites, minions.TLSMinVersion = c.TLS.suites(), c.TLS.MinVersion
	if minions.KubeletArgs, err = c.kubeletArgs(); err != nil {
		return minions, err
	}
	minions.ProxyConfig, err = c.proxyConfig()
	return minions, err
}

// addressPools returns the ConfigMap that schedulers fill. They cannot create it: RBAC does not limit that to one name.
func addressPools() object {
	return &corev1.ConfigMap{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{Namespace: api.AddressPoolsNamespace, Name: api.AddressPoolsName},
	}
}

func minionConfigMap(minion api.MinionConfig) (object, error) {
	data, err := json.Marshal(minion)
	if err != nil {
		return nil, fmt.Errorf("cannot encode the minions' configuration: %w", err)
	}
	return &corev1.ConfigMap{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{Namespace: api.MinionConfigNamespace, Name: api.MinionConfigName},
		Data:       map[string]string{api.MinionConfigKey: string(data)},
	}, nil
}
