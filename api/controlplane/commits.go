package controlplane

import (
	"fmt"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/commit"
)

// commits returns the API type of commits and the rights of nodes on it. Who may create Commits is for the operator to grant.
func commits() []object {
	nodes := rbacv1.Subject{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: api.NodesGroup}
	return append([]object{commitType()}, clusterGrant("k8sm:commits", []rbacv1.PolicyRule{
		rule(commit.Kind.Group, []string{commit.Resource.Resource}, "get", "list", "watch"),
		rule(commit.Kind.Group, []string{commit.Resource.Resource + "/status"}, "patch"),
	}, nodes)...)
}

// commitPolicies keep a node to the status of its own Commits, and those who ask for images to containers whose files they may read
// anyway.
func commitPolicies() []admissionPolicy {
	of := func(operations []admissionv1.OperationType, resources ...string) []admissionv1.NamedRuleWithOperations {
		r := to(commit.Kind.Group, operations, resources...)
		r.APIVersions = []string{commit.Kind.Version}
		return []admissionv1.NamedRuleWithOperations{r}
	}
	may := func(resource, subresource, name, verb string) string {
		return fmt.Sprintf("authorizer.group('').resource('%s').subresource('%s').namespace(object.metadata.namespace).name(object.spec.%s).check('%s').allowed()",
			resource, subresource, name, verb)
	}
	return []admissionPolicy{
		{
			name: "k8sm-commit-status",
			on:   of(updating, commit.Resource.Resource, commit.Resource.Resource+"/status"),
			of:   byNodes,
			must: []admissionv1.Validation{
				must(fmt.Sprintf("request.userInfo.username == '%s' + oldObject.spec.nodeName", api.NodeUserPrefix), "a node may only write the status of Commits on itself"),
				must(sameField("status.?address"), "only the control plane may write the address of a Commit"),
			},
		},
		{
			name: "k8sm-commit-rights",
			on:   of(creating, commit.Resource.Resource),
			must: []admissionv1.Validation{
				must(may("pods", "exec", "podName", "create"), "whoever commits a container gets its files: this needs the right to create pods/exec of the pod"),
				must("!has(object.spec.pushSecret) || "+may("secrets", "", "pushSecret", "get"), "whoever pushes with a Secret needs the right to get it"),
			},
		},
	}
}

// commitType is the CustomResourceDefinition of commits
// (https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/).
func commitType() object {
	column := func(name, path string, priority int32) apiextensionsv1.CustomResourceColumnDefinition {
		return apiextensionsv1.CustomResourceColumnDefinition{Name: name, Type: "string", JSONPath: path, Priority: priority}
	}
	kind := commit.Kind
	return &apiextensionsv1.CustomResourceDefinition{
		TypeMeta:   metav1.TypeMeta{APIVersion: apiextensionsv1.SchemeGroupVersion.String(), Kind: "CustomResourceDefinition"},
		ObjectMeta: metav1.ObjectMeta{Name: commit.Resource.Resource + "." + kind.Group},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: kind.Group, Scope: apiextensionsv1.NamespaceScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{
				Kind: kind.Kind, ListKind: kind.Kind + "List", Plural: commit.Resource.Resource, Singular: "commit",
			},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
				Name: kind.Version, Served: true, Storage: true,
				Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{
					Type: "object", Required: []string{"spec"}, Description: "A Commit makes an image of a pod's container and pushes it to a registry.",
					Properties: map[string]apiextensionsv1.JSONSchemaProps{"spec": commitSpec(), "status": commitStatus()},
				}},
				Subresources:     &apiextensionsv1.CustomResourceSubresources{Status: &apiextensionsv1.CustomResourceSubresourceStatus{}},
				SelectableFields: []apiextensionsv1.SelectableField{{JSONPath: "." + commit.FieldNodeName}},
				AdditionalPrinterColumns: []apiextensionsv1.CustomResourceColumnDefinition{
					column("Image", ".spec.image", 0), column("Phase", ".status.phase", 0), column("IP", ".status.address", 0),
					column("Message", ".status.message", 0),
					{Name: "Age", Type: "date", JSONPath: ".metadata.creationTimestamp"},
					column("Node", ".spec.nodeName", 1), column("Pod", ".spec.podName", 1), column("Container", ".spec.container", 1),
					column("Digest", ".status.digest", 1),
				},
			}},
		},
	}
}

// textField is a field with a text.
func textField(description string, shortest, longest int64) apiextensionsv1.JSONSchemaProps {
	return apiextensionsv1.JSONSchemaProps{Type: "string", Description: description, MinLength: &shortest, MaxLength: &longest}
}

func commitSpec() apiextensionsv1.JSONSchemaProps {
	return apiextensionsv1.JSONSchemaProps{
		Type: "object", Required: []string{"nodeName", "podName", "podUID", "container", "image"},
		XValidations: apiextensionsv1.ValidationRules{{Rule: "self == oldSelf", Message: "the spec of a Commit cannot be changed: make another Commit"}},
		Properties: map[string]apiextensionsv1.JSONSchemaProps{
			"nodeName":  textField("The node that the pod runs on. Its minion carries the Commit out.", 1, 253),
			"podName":   textField("The pod, in this namespace.", 1, 253),
			"podUID":    textField("The pod's UID.", 1, 64),
			"container": textField("The container of the pod.", 1, 63),
			"image":     textField("Where the image is pushed to: REGISTRY/NAME:TAG.", 1, 512),
			"pushSecret": textField("A Secret of this namespace with the registry's credentials, which the node must be allowed to get. "+
				"The default is the pod's imagePullSecrets.", 0, 253),
		},
	}
}

func commitStatus() apiextensionsv1.JSONSchemaProps {
	return apiextensionsv1.JSONSchemaProps{
		Type: "object",
		XValidations: apiextensionsv1.ValidationRules{{
			Rule:    "!(has(oldSelf.phase) && oldSelf.phase in ['Succeeded', 'Failed']) || has(self.phase) && self.phase == oldSelf.phase",
			Message: "a Commit that has ended stays so: make another Commit",
		}},
		Properties: map[string]apiextensionsv1.JSONSchemaProps{
			"phase":   textField("Running, Succeeded or Failed; none until the node begins.", 0, 20),
			"digest":  textField("The digest of the pushed image.", 0, 200),
			"message": textField("What the node waits for, why it failed, or what is not in the image.", 0, 4096),
			"address": textField("The pod's address, once it is in etcd below "+commit.KeyPrefix+".", 0, 64),
		},
	}
}
