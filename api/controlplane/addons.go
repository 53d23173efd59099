package controlplane

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/k8sm/k8sm/api"
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
	if minions.KubeletServingCA, err = os.ReadFile(c.StateDir.KubeletServingCA()); err != nil {
		return nil, fmt.Errorf("cannot read the CA of kubelets' serving certificates: %w", err)
	}
	config, err := minionConfigMap(minions)
	if err != nil {
		return nil, err
	}
	return slices.Concat(c.dns(), rbac(minions), assignedAddresses(), []object{config, addressPools()}), nil
}

// applyAddOns applies the add-ons. It runs at each start. It retries until ctx ends, because the API server may not have created
// their namespaces yet.
func applyAddOns(ctx context.Context, client kubernetes.Interface, addOns []object) error {
	for _, o := range addOns {
		var last error
		once := func(ctx context.Context) (bool, error) {
			last = apply(ctx, client, o)
			return last == nil, permanent(last)
		}
		err := wait.PollUntilContextCancel(ctx, 200*time.Millisecond, true, once)
		if err != nil && kindOf(o) == "Service" && apierrors.IsInvalid(last) {
			return fmt.Errorf("cannot assign service %s its address: %w; delete the service that has it, or the old %[1]s, or set another address with --cluster-dns",
				o.GetName(), last)
		}
		if err != nil {
			return fmt.Errorf("cannot apply the add-on %s %s: %w", kindOf(o), o.GetName(), last)
		}
	}
	return nil
}

// permanent returns the error if retrying cannot help.
func permanent(err error) error {
	if apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) || apierrors.IsForbidden(err) {
		return err
	}
	return nil
}

func apply(ctx context.Context, client kubernetes.Interface, o object) error {
	resource, group := resourceOf(client, kindOf(o))
	data, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("cannot encode: %w", err)
	}
	return group.Patch(types.ApplyPatchType).
		NamespaceIfScoped(o.GetNamespace(), o.GetNamespace() != "").
		Resource(resource).Name(o.GetName()).
		Param("fieldManager", fieldManager).Param("force", "true").
		Body(data).Do(ctx).Error()
}

// resourceOf returns the resource name and client for an add-on's kind.
func resourceOf(client kubernetes.Interface, kind string) (string, rest.Interface) {
	switch kind {
	case "Namespace":
		return "namespaces", client.CoreV1().RESTClient()
	case "Service":
		return "services", client.CoreV1().RESTClient()
	case "ClusterRole":
		return "clusterroles", client.RbacV1().RESTClient()
	case "ClusterRoleBinding":
		return "clusterrolebindings", client.RbacV1().RESTClient()
	case "Role":
		return "roles", client.RbacV1().RESTClient()
	case "RoleBinding":
		return "rolebindings", client.RbacV1().RESTClient()
	case "ValidatingAdmissionPolicy":
		return "validatingadmissionpolicies", client.AdmissionregistrationV1().RESTClient()
	case "ValidatingAdmissionPolicyBinding":
		return "validatingadmissionpolicybindings", client.AdmissionregistrationV1().RESTClient()
	default:
		return "configmaps", client.CoreV1().RESTClient()
	}
}

// minionConfig returns the minions' configuration.
func (c Config) minionConfig() (api.MinionConfig, error) {
	minions := c.Minions
	minions.ClusterDomain, minions.ClusterDNS = c.ClusterDomain, c.clusterDNS()
	minions.ClusterCIDR, minions.ServiceCIDR = c.ClusterCIDR, c.ServiceCIDR
	minions.RootDir, minions.DockerHost = c.NodeRootDir, c.DockerHost
	eviction, err := api.ParseEviction(c.EvictionHard)
	if err != nil {
		return minions, fmt.Errorf("cannot use --eviction-hard=%s: %w", c.EvictionHard, err)
	}
	minions.EvictionHard = eviction
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
