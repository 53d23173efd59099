package controlplane

import (
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/k8sm/k8sm/api"
)

// logStores are the stores of the cluster's logs, and their API.
func logStores() aggregated {
	return aggregated{
		Membership: api.LogsMembership(), what: "log stores", port: api.LogsPortName,
		versions: []schema.GroupVersion{{Group: api.LogsGroup, Version: api.LogsVersion}},
	}
}

// logs returns the service of the log stores and the rights that there are for logs; nothing without log stores.
func (c Config) logs() []object {
	if !c.Logs {
		return nil
	}
	m := api.LogsMembership()
	store := rbacv1.Subject{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: m.User}
	everybody := rbacv1.Subject{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: user.AllAuthenticated}
	return slices.Concat(
		logStores().objects(),
		memberGrants("k8sm:logs", m),
		clusterGrant("k8sm:logs", []rbacv1.PolicyRule{rule("", []string{"pods"}, "get", "list", "watch"), rule("", []string{"events"}, "list", "watch")}, store),
		// Who asks reaches a store, which asks the API server whether he may get pods/log.
		clusterGrant("k8sm:logs-callers", []rbacv1.PolicyRule{rule(api.LogsGroup, []string{"pods/log"}, "get", "create")}, everybody),
		[]object{
			clusterBinding("k8sm:logs-auth-delegator", "system:auth-delegator", store),
			roleBinding(metav1.NamespaceSystem, "k8sm:logs-auth-reader", "extension-apiserver-authentication-reader", store),
		},
	)
}
