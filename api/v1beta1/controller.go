package v1beta1

import (
	"maps"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// templatePath is where the manifest stands in a replication controller.
const templatePath = "desiredState.podTemplate." + manifestPath

// LabelReplicationController, on a pod, is the id of its replication controller.
const LabelReplicationController = "replicationController"

// ToV1 converts a replication controller that is created, as Pod.ToV1 does a pod. Its pods get LabelReplicationController, if its id
// can be a label's value.
func (r *ReplicationController) ToV1() (*v1.ReplicationController, error) {
	template := &r.DesiredState.PodTemplate
	if err := template.DesiredState.Manifest.check(templatePath).invalid("replicationController", r.ID); err != nil {
		return nil, err
	}
	pods := metav1.ObjectMeta{Labels: maps.Clone(template.Labels)}
	if len(validation.IsValidLabelValue(r.ID)) == 0 {
		metav1.SetMetaDataLabel(&pods, LabelReplicationController, r.ID)
	}
	return &v1.ReplicationController{
		ObjectMeta: r.objectMeta(r.Labels),
		Spec: v1.ReplicationControllerSpec{
			Replicas: new(r.DesiredState.Replicas),
			Selector: maps.Clone(r.DesiredState.ReplicaSelector),
			Template: &v1.PodTemplateSpec{ObjectMeta: pods, Spec: template.DesiredState.Manifest.toV1()},
		},
	}, nil
}

// FromV1ReplicationController converts a replication controller. The label that ToV1 gives to its pods is not shown.
func FromV1ReplicationController(o *v1.ReplicationController) *ReplicationController {
	r := &ReplicationController{Meta: fromV1(o), Labels: maps.Clone(o.Labels)}
	r.CurrentState.Replicas = o.Status.Replicas
	r.DesiredState.ReplicaSelector = maps.Clone(o.Spec.Selector)
	r.DesiredState.Replicas = 1
	if o.Spec.Replicas != nil {
		r.DesiredState.Replicas = *o.Spec.Replicas
	}
	if o.Spec.Template != nil {
		template := &r.DesiredState.PodTemplate
		template.DesiredState.Manifest = fromV1Spec(&o.Spec.Template.Spec)
		template.Labels = maps.Clone(o.Spec.Template.Labels)
		if template.Labels[LabelReplicationController] == r.ID {
			delete(template.Labels, LabelReplicationController)
		}
	}
	return r
}
