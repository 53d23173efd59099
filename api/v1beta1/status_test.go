//nolint:staticcheck // the API of 2014 has Endpoints, and nothing else can write those without a selector
package v1beta1

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func TestErrorsOfV1AreThoseOfV1beta1(t *testing.T) {
	pods, nodes := schema.GroupResource{Resource: "pods"}, schema.GroupResource{Resource: "nodes"}
	controllers := schema.GroupResource{Resource: "replicationcontrollers"}
	for _, c := range []struct {
		name     string
		err      *apierrors.StatusError
		kind, id string
		code     int
		message  string
		details  *StatusDetails
	}{
		{"id with capitals", apierrors.NewNotFound(controllers, "mynginx"), "ReplicationController", "myNginx", 404,
			`replicationController "myNginx" not found`, &StatusDetails{ID: "myNginx", Kind: "replicationController"}},
		{"minion", apierrors.NewNotFound(nodes, "m"), "Minion", "m", 404, `minion "m" not found`, &StatusDetails{ID: "m", Kind: "minion"}},
		{"something else", apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, "n"), "Pod", "p", 404,
			`namespaces "n" not found`, &StatusDetails{ID: "n", Kind: "namespaces"}},
		{"an object of another resource", apierrors.NewNotFound(pods, "p"), "Binding", "", 404, `pod "p" not found`, &StatusDetails{ID: "p", Kind: "pod"}},
		{"conflict", apierrors.NewConflict(pods, "p", errors.New("the object has been modified")), "Pod", "P", 409,
			`pod "P" cannot be updated: the object has been modified`, &StatusDetails{ID: "P", Kind: "pod"}},
		{"conflict of a part", apierrors.NewConflict(schema.GroupResource{Resource: "pods/binding"}, "p", errors.New("it has a node")), "Pod", "p", 409,
			`pod "p" cannot be updated: it has a node`, &StatusDetails{ID: "p", Kind: "pod"}},
		{"forbidden", apierrors.NewForbidden(pods, "p", errors.New("exceeded quota")), "Pod", "p", 403, `pod "p" is forbidden: exceeded quota`, &StatusDetails{ID: "p", Kind: "pod"}},
		{"unauthorized", apierrors.NewUnauthorized("who are you?"), "Pod", "", 401, "who are you?", nil},
		{"invalid without causes", &apierrors.StatusError{ErrStatus: metav1.Status{
			Code: 422, Reason: metav1.StatusReasonInvalid, Message: `Pod "p" is invalid`, Details: &metav1.StatusDetails{Kind: "Pod", Name: "p"},
		}}, "Pod", "p", 422, `pod "p" is invalid`, &StatusDetails{ID: "p", Kind: "pod"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := ofV1Error(c.err, resourceOf(t, c.kind), c.id)
			if diff := cmp.Diff(got.Details, c.details); diff != "" || got.Message != c.message || got.Code != c.code || got.Reason != string(c.err.ErrStatus.Reason) {
				t.Errorf("the answer is %s\n%s", encode(t, got), diff)
			}
		})
	}
}

func TestCausesOfV1AreThoseOfV1beta1(t *testing.T) {
	name := field.NewPath("metadata", "name")
	for _, c := range []struct {
		err  *field.Error
		want Cause
	}{
		{field.Invalid(name, "UP", "must be small"), Cause{"FieldValueInvalid", "id: invalid value 'UP': must be small", "id"}},
		{field.Invalid(name, `a"b`, "must: be"), Cause{"FieldValueInvalid", `id: invalid value 'a"b': must: be`, "id"}},
		{field.Invalid(name, 70000, "must be less"), Cause{"FieldValueInvalid", "id: invalid value '70000': must be less", "id"}},
		{field.Invalid(name, map[string]string{"a": "b"}, "must match"), Cause{"FieldValueInvalid", `id: invalid value '{"a":"b"}': must match`, "id"}},
		{field.Required(name, ""), Cause{"FieldValueRequired", "id: required value ''", "id"}},
		{field.Required(name, "or a pod has none"), Cause{"FieldValueRequired", "id: required value '': or a pod has none", "id"}},
		{field.NotSupported(name, "x", []string{"a", "b"}), Cause{"FieldValueNotSupported", `id: unsupported value 'x': supported values: "a", "b"`, "id"}},
		{field.Duplicate(name, "x"), Cause{"FieldValueDuplicate", "id: duplicate value 'x'", "id"}},
		{field.NotFound(name, "x"), Cause{"FieldValueNotFound", "id: not found 'x'", "id"}},
		{field.Forbidden(name, "cannot change"), Cause{"FieldValueForbidden", "id: Forbidden: cannot change", "id"}},
	} {
		s := apierrors.NewInvalid(schema.GroupKind{Kind: "Pod"}, "p", field.ErrorList{c.err})
		got := ofV1Error(s, resourceOf(t, "Pod"), "p")
		if diff := cmp.Diff(got.Details.Causes, []Cause{c.want}); diff != "" {
			t.Errorf("%v:\n%s", c.err, diff)
		}
		if want := `pod "p" is invalid: ` + c.want.Message; got.Message != want {
			t.Errorf("the message is %q, and should be %q", got.Message, want)
		}
	}
}

// TestAnswersAreNotManyTimesAsLargeAsBodies: what is wrong with a million containers is told of the first.
func TestAnswersAreNotManyTimesAsLargeAsBodies(t *testing.T) {
	body := pod(`,"containers":[` + strings.Repeat("{},", 9999) + `{}]`)
	_, err := decode(t, body, "Pod").(*Pod).ToV1()
	_, err2 := OverlayEndpoints(&v1.Endpoints{}, &v1.Service{}, &Endpoints{Endpoints: make([]string, 9999)})
	var list field.ErrorList
	for range 9999 {
		list = append(list, field.Required(field.NewPath("spec"), ""))
	}
	ofTheirs := ofV1Error(apierrors.NewInvalid(schema.GroupKind{Kind: "Pod"}, "p", list), resourceOf(t, "Pod"), "p")
	for _, s := range []*Status{status(t, err), status(t, err2), ofTheirs} {
		if got := encode(t, s); len(got) > 10_000 || len(s.Details.Causes) != maxCauses {
			t.Errorf("%d causes, %d bytes", len(s.Details.Causes), len(got))
		}
	}
}

func TestFieldPaths(t *testing.T) {
	for _, c := range []struct{ kind, v1, want string }{
		{"Pod", "spec.containers[0].name", "desiredState.manifest.containers[0].name"},
		{"Pod", "spec.containers", "desiredState.manifest.containers"},
		{"Pod", "spec.containers[1].args[0]", "desiredState.manifest.containers[1].command[0]"},
		{"Pod", "spec.containers[1].command", "desiredState.manifest.containers[1].entrypoint"},
		{"Pod", "spec.containers[12].resources.limits[cpu]", "desiredState.manifest.containers[12].cpu"},
		{"Pod", "spec.containers[0].resources.requests[memory]", "desiredState.manifest.containers[0].memory"},
		{"Pod", "spec.containers[0].resources.requests", "desiredState.manifest.containers[0].resources.requests"},
		{"Pod", "spec.containers[0].securityContext.privileged", "desiredState.manifest.containers[0].privileged"},
		{"Pod", "spec.containers[0].livenessProbe.httpGet.port", "desiredState.manifest.containers[0].livenessProbe.httpGet.port"},
		{"Pod", "spec.containers[0].volumeMounts[1].mountPath", "desiredState.manifest.containers[0].volumeMounts[1].mountPath"},
		{"Pod", "spec.volumes[0].hostPath.path", "desiredState.manifest.volumes[0].source.hostDir.path"},
		{"Pod", "spec.volumes[0].emptyDir", "desiredState.manifest.volumes[0].source.emptyDir"},
		{"Pod", "spec.volumes[0].name", "desiredState.manifest.volumes[0].name"},
		{"Pod", "spec.restartPolicy", "desiredState.manifest.restartPolicy"},
		{"Pod", "spec.nodeName", "desiredState.host"},
		{"Pod", "spec.tolerations[0]", "spec.tolerations[0]"},
		{"Pod", "spec.initContainers[0].command", "spec.initContainers[0].command"},
		{"Pod", "spec", "spec"},
		{"Pod", "", ""},
		{"Pod", "metadata.labels", "labels"},
		{"Pod", "metadata.finalizers", "metadata.finalizers"},
		{"Service", "metadata.name", "id"},
		{"Service", "metadata.namespace", "namespace"},
		{"ReplicationController", "spec.template.spec.containers[0].image", "desiredState.podTemplate.desiredState.manifest.containers[0].image"},
		{"ReplicationController", "spec.template.spec.containers[0].args", "desiredState.podTemplate.desiredState.manifest.containers[0].command"},
		{"ReplicationController", "spec.template.metadata.labels", "desiredState.podTemplate.labels"},
		{"ReplicationController", "spec.selector", "desiredState.replicaSelector"},
		{"ReplicationController", "spec.replicas", "desiredState.replicas"},
		{"Service", "spec.ports[0].port", "port"},
		{"Service", "spec.ports[0].protocol", "protocol"},
		{"Service", "spec.ports[0].targetPort", "containerPort"},
		{"Service", "spec.ports[1].port", "spec.ports[1].port"},
		{"Service", "spec.ports", "port"},
		{"Service", "spec.clusterIPs[0]", "portalIP"},
		{"Service", "spec.clusterIP", "portalIP"},
		{"Service", "spec.clusterIPs", "portalIP"},
		{"Service", "spec.clusterIPs[1]", "spec.clusterIPs[1]"},
		{"Service", "spec.externalIPs[0]", "publicIPs[0]"},
		{"Service", "spec.type", "createExternalLoadBalancer"},
		{"Service", "spec.selector", "selector"},
		{"Minion", "status.addresses[0].address", "hostIP"},
		{"Minion", "status.capacity[cpu]", "resources.capacity.cpu"},
		{"Minion", "status.capacity.memory", "resources.capacity.memory"},
		{"Minion", "status.allocatable.cpu", "resources.capacity.cpu"},
		{"Binding", "metadata.name", "podID"},
		{"Binding", "target.name", "host"},
		{"Endpoints", "subsets[0].addresses[2].ip", "endpoints"},
		{"Event", "source.component", "source"},
		{"Event", "action", "status"},
	} {
		if got := FieldPath(resourceOf(t, c.kind), c.v1); got != c.want {
			t.Errorf("%s of %s is %s, and should be %s", c.v1, c.kind, got, c.want)
		}
	}
}
