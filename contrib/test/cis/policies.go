package cis

import (
	"context"
	"slices"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api"
)

// policies are the items about rights and pods.
func policies() []item {
	const workloads = "a matter of the workloads; a fresh cluster has none"
	return []item{
		{"5.1.1", "cluster-admin is bound where needed only", clusterAdmins},
		{"5.1.2", "no general access to secrets", everybodyMay("secrets", "get", "list", "watch")},
		{"5.1.3", "no wildcards in roles", wildcards},
		{"5.1.4", "no general right to create pods", everybodyMay("pods", "create")},
		{"5.1.5", "default service accounts are not used", defaultAccounts},
		{"5.1.6", "tokens are mounted where needed only", mountedTokens},
		{"5.1.7", "no use of system:masters", does(cannot("the administrator's kubeconfig must work even if RBAC is broken; keep it for that, and give people other identities"))},
		{"5.1.8", "limited bind, impersonate and escalate", granted("*", []string{"*"}, "bind", "impersonate", "escalate")},
		{"5.1.9", "limited right to create persistent volumes", granted("", []string{"persistentvolumes"}, "create")},
		{"5.1.10", "limited access to proxies of nodes", granted("", []string{"nodes/proxy"}, "get", "create")},
		{"5.1.11", "limited right to approve certificates", granted("certificates.k8s.io", []string{"certificatesigningrequests/approval"}, "update", "patch")},
		{"5.1.12", "limited access to webhook configurations", granted("admissionregistration.k8s.io",
			[]string{"validatingwebhookconfigurations", "mutatingwebhookconfigurations"}, "create", "update", "patch", "delete")},
		{"5.1.13", "limited right to create tokens", granted("", []string{"serviceaccounts/token"}, "create")},
		{"5.2.1", "a policy for pods is active", flagsOf(apiServerFlags).lacks("disable-admission-plugins", "PodSecurity")},
		{"5.2.2", "privileged containers can be refused", refused("privileged")},
		{"5.2.3", "the host's process ids can be refused", refused("hostPID")},
		{"5.2.4", "the host's IPC can be refused", refused("hostIPC")},
		{"5.2.5", "the host's network can be refused", refused("hostNetwork")},
		{"5.2.6", "privilege escalation can be refused", refused("escalation")},
		{"5.2.7", "root can be refused", refused("root")},
		{"5.2.8", "NET_RAW can be refused", refused("NET_RAW")},
		{"5.2.9", "added capabilities can be refused", refused("added")},
		{"5.2.10", "capabilities can be refused", refused("undropped")},
		{"5.2.11", "Windows' HostProcess can be refused", refused("hostProcess")},
		{"5.2.12", "hostPath volumes can be refused", refused("hostPath")},
		{"5.2.13", "host ports can be refused", refused("hostPort")},
		{"5.3.1", "network policies are enforced", networkPolicies},
		{"5.3.2", "namespaces have network policies", isolated},
		{"5.4.1", "secrets are files, not variables", secretVariables},
		{"5.4.2", "external storage of secrets", notApplicable("a choice of the operator; secrets are encrypted in etcd")},
		{"5.5.1", "provenance of images", notApplicable("needs an ImagePolicyWebhook of yours; set it by --admission-control-config-file")},
		{"5.7.1", "namespaces as boundaries", notApplicable(workloads)},
		{"5.7.2", "seccomp profile by default", func(_ context.Context, s *seen) verdict {
			for _, k := range s.kubelets {
				if k.config.SeccompDefault == nil || !*k.config.SeccompDefault {
					return fail("seccompDefault is not set")
				}
			}
			return pass("seccompDefault=true")
		}},
		{"5.7.3", "security contexts", notApplicable(workloads)},
		{"5.7.4", "the default namespace is not used", defaultNamespace},
	}
}

// stock is the label of the roles that the API server makes, and restores
// (https://kubernetes.io/docs/reference/access-authn-authz/rbac/#auto-reconciliation).
const stock = "kubernetes.io/bootstrapping"

// clusterAdmins checks that cluster-admin is bound by its stock binding only.
func clusterAdmins(ctx context.Context, s *seen) verdict {
	list, err := s.Kube.RbacV1().ClusterRoleBindings().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fail("%v", err)
	}
	for _, b := range list.Items {
		if b.RoleRef.Name == "cluster-admin" && b.Name != "cluster-admin" {
			return fail("ClusterRoleBinding %s", b.Name)
		}
	}
	return pass("only the stock binding has it")
}

// everybodyMay checks that a user with no rights of its own may not do this.
func everybodyMay(resource string, verbs ...string) func(context.Context, *seen) verdict {
	return func(ctx context.Context, s *seen) verdict {
		for _, verb := range verbs {
			review, err := s.Kube.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
				Spec: authorizationv1.SubjectAccessReviewSpec{
					User: "somebody", Groups: []string{"system:authenticated"},
					ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: verb, Resource: resource},
				},
			}, metav1.CreateOptions{})
			if err != nil {
				return fail("%v", err)
			}
			if review.Status.Allowed {
				return fail("everybody may %s %s: %s", verb, resource, review.Status.Reason)
			}
		}
		return pass("somebody may not %s %s", strings.Join(verbs, ", "), resource)
	}
}

// roles returns the rules of all roles but the stock ones, by the role's name.
func (s *seen) roles(ctx context.Context) (map[string][]rbacv1.PolicyRule, error) {
	rules := map[string][]rbacv1.PolicyRule{}
	cluster, err := s.Kube.RbacV1().ClusterRoles().List(ctx, metav1.ListOptions{LabelSelector: "!" + stock})
	if err != nil {
		return nil, err
	}
	for _, role := range cluster.Items {
		rules["ClusterRole "+role.Name] = role.Rules
	}
	list, err := s.Kube.RbacV1().Roles("").List(ctx, metav1.ListOptions{LabelSelector: "!" + stock})
	if err != nil {
		return nil, err
	}
	for _, role := range list.Items {
		rules["Role "+role.Namespace+"/"+role.Name] = role.Rules
	}
	return rules, nil
}

// wildcards checks that no role but stock ones has a wildcard.
func wildcards(ctx context.Context, s *seen) verdict {
	roles, err := s.roles(ctx)
	if err != nil {
		return fail("%v", err)
	}
	for name, rules := range roles {
		for _, r := range rules {
			if slices.Contains(slices.Concat(r.APIGroups, r.Resources, r.Verbs, r.NonResourceURLs), "*") {
				return fail("%s", name)
			}
		}
	}
	return pass("none in the %d roles of k8sm; the API server restores those of the stock ones", len(roles))
}

// granted checks that no role but stock ones grants any of the verbs on any of the resources. "*" is any group or resource.
func granted(group string, resources []string, verbs ...string) func(context.Context, *seen) verdict {
	return func(ctx context.Context, s *seen) verdict {
		roles, err := s.roles(ctx)
		if err != nil {
			return fail("%v", err)
		}
		for name, rules := range roles {
			if i := slices.IndexFunc(rules, func(r rbacv1.PolicyRule) bool {
				return meets(r.APIGroups, []string{group}) && meets(r.Resources, resources) && meets(r.Verbs, verbs)
			}); i >= 0 {
				return fail("%s: %v", name, rules[i])
			}
		}
		return pass("none of the %d roles of k8sm has it", len(roles))
	}
}

// meets reports whether two lists share an element. "*" is any element.
func meets(a, b []string) bool {
	if slices.Contains(a, "*") || slices.Contains(b, "*") {
		return len(a) > 0 && len(b) > 0
	}
	return slices.ContainsFunc(a, func(e string) bool { return slices.Contains(b, e) })
}

// defaultAccounts checks that no binding gives rights to an account named default.
func defaultAccounts(ctx context.Context, s *seen) verdict {
	subjects := map[string][]rbacv1.Subject{}
	cluster, err := s.Kube.RbacV1().ClusterRoleBindings().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fail("%v", err)
	}
	for _, b := range cluster.Items {
		subjects["ClusterRoleBinding "+b.Name] = b.Subjects
	}
	list, err := s.Kube.RbacV1().RoleBindings("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return fail("%v", err)
	}
	for _, b := range list.Items {
		subjects["RoleBinding "+b.Namespace+"/"+b.Name] = b.Subjects
	}
	for binding, to := range subjects {
		for _, subject := range to {
			if subject.Kind == rbacv1.ServiceAccountKind && subject.Name == "default" {
				return fail("%s gives rights to %s/default", binding, subject.Namespace)
			}
		}
	}
	return pass("no binding gives rights to one")
}

// pods checks each pod of the cluster; bad says what is wrong with it, or "".
func (s *seen) pods(ctx context.Context, space string, bad func(corev1.Pod) string) verdict {
	list, err := s.Kube.CoreV1().Pods(space).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fail("%v", err)
	}
	for _, pod := range list.Items {
		if problem := bad(pod); problem != "" {
			return fail("pod %s/%s %s", pod.Namespace, pod.Name, problem)
		}
	}
	return pass("%d pods", len(list.Items))
}

// mountedTokens checks that k8sm runs no pod with a token: its add-ons are processes beside the control plane.
func mountedTokens(ctx context.Context, s *seen) verdict {
	return s.pods(ctx, metav1.NamespaceSystem, func(pod corev1.Pod) string {
		if mounts := pod.Spec.AutomountServiceAccountToken; mounts == nil || *mounts {
			return "mounts a token"
		}
		return ""
	})
}

func secretVariables(ctx context.Context, s *seen) verdict {
	return s.pods(ctx, "", func(pod corev1.Pod) string {
		for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
			if slices.ContainsFunc(c.EnvFrom, func(e corev1.EnvFromSource) bool { return e.SecretRef != nil }) ||
				slices.ContainsFunc(c.Env, func(e corev1.EnvVar) bool { return e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil }) {
				return "has a secret in its environment"
			}
		}
		return ""
	})
}

func defaultNamespace(ctx context.Context, s *seen) verdict {
	return s.pods(ctx, metav1.NamespaceDefault, func(corev1.Pod) string { return "is in it" })
}

// isolated checks that each namespace with pods has a network policy.
func isolated(ctx context.Context, s *seen) verdict {
	list, err := s.Kube.NetworkingV1().NetworkPolicies("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return fail("%v", err)
	}
	return s.pods(ctx, "", func(pod corev1.Pod) string {
		for _, policy := range list.Items {
			if policy.Namespace == pod.Namespace {
				return ""
			}
		}
		return "is in a namespace without a network policy"
	})
}

// refused checks that the restricted level refuses a pod with the property.
func refused(property string) func(context.Context, *seen) verdict {
	return func(_ context.Context, s *seen) verdict {
		if s.admission.err != nil || !s.admission.refused[property] {
			return fail("a namespace at the restricted level takes such a pod: %v", s.admission.err)
		}
		return pass("a namespace at the restricted level refuses such a pod")
	}
}

// networkPolicies reads what the minions are told.
func networkPolicies(ctx context.Context, s *seen) verdict {
	object, err := s.Kube.CoreV1().ConfigMaps(api.MinionConfigNamespace).Get(ctx, api.MinionConfigName, metav1.GetOptions{})
	if err != nil {
		return fail("%v", err)
	}
	config, err := api.ReadMinionConfig(object.Data)
	if err != nil || !config.EnforcesNetworkPolicies() {
		return fail("minions do not enforce them: %v", err)
	}
	return pass("minions enforce them (network %s)", config.Network.Mode)
}
