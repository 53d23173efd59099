// Package commit has the words of commits: a container of a pod becomes an image in a registry, and a pod whose container was committed
// can be made again, elsewhere too, with its address. It has the API type Commit, the names that follow from a component and an address,
// and the ReplicationControllers (pod_rcs) that take a component's pods over.
//
// It is pure: no clock, no I/O. Start reading at Commit, then at Component.
package commit

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/name"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// Kind is the API type of commits, and Resource its resource.
var (
	Kind     = schema.GroupVersionKind{Group: "k8sm.io", Version: "v1alpha1", Kind: "Commit"}
	Resource = Kind.GroupVersion().WithResource("commits")
)

// FieldNodeName is the field by which a node selects its commits
// (https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#crd-selectable-fields).
const FieldNodeName = "spec.nodeName"

// AnnotationTaken says on a Commit, with the value "true", that who asked for the image has taken note of it: the next `km commit` of
// the container makes a new image instead of going on with this one.
const AnnotationTaken = "k8sm.io/commit-taken"

// Annotations of a ReplicationController in the file that `km commit rc` saves before it takes its pods over. The values are the names of
// the pod_rcs, separated by commas.
const (
	// AnnotationTakeover says that the take-over has begun.
	AnnotationTakeover = "k8sm.io/takeover"
	// AnnotationTakenOver says that it is over.
	AnnotationTakenOver = "k8sm.io/taken-over-by"
)

// LabelIP is the label with a pod's address, as Dashed writes it, that `km commit rc` gives to pods.
const LabelIP = "IP"

// Commit asks the minion of a node to push a container's files as an image.
type Commit struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              Spec   `json:"spec"`
	Status            Status `json:"status,omitempty,omitzero"`
}

// Spec says what is committed. The API server keeps it from being changed.
type Spec struct {
	// NodeName is the node that the pod runs on: its minion carries the Commit out.
	NodeName string `json:"nodeName"`
	// PodName and PodUID name the pod, in the Commit's namespace, and Container a container of it.
	PodName   string    `json:"podName"`
	PodUID    types.UID `json:"podUID"`
	Container string    `json:"container"`
	// Image is where it is pushed to, as ParseImage reads it.
	Image string `json:"image"`
	// PushSecret is a Secret of the namespace with the registry's credentials, of the types that imagePullSecrets may have. The node
	// must be allowed to read it. Empty means the pod's imagePullSecrets.
	PushSecret string `json:"pushSecret,omitempty"`
}

// Status says how far it is. Only the node writes it, but for Address.
type Status struct {
	Phase Phase `json:"phase,omitempty"`
	// Digest is the pushed image's, "sha256:...".
	Digest string `json:"digest,omitempty"`
	// Message says what the node waits for, why it failed, or what is not in the image.
	Message string `json:"message,omitempty"`
	// Address is the pod's address, once the control plane has written it to etcd under the key of Key.
	Address string `json:"address,omitempty"`
}

// Phase is a step of a Commit. It never leaves Succeeded and Failed.
type Phase string

// The phases; a new Commit has none.
const (
	Running   Phase = "Running"
	Succeeded Phase = "Succeeded"
	Failed    Phase = "Failed"
)

// Ended reports whether the phase is final.
func (p Phase) Ended() bool { return p == Succeeded || p == Failed }

// Read converts a Commit as the API server has it.
func Read(object *unstructured.Unstructured) (c Commit, err error) {
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &c); err != nil {
		return c, fmt.Errorf("cannot read Commit %s/%s: %w", object.GetNamespace(), object.GetName(), err)
	}
	return c, nil
}

// Object converts a Commit to what a client writes.
func (c Commit) Object() (*unstructured.Unstructured, error) {
	c.SetGroupVersionKind(Kind)
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&c)
	if err != nil {
		return nil, fmt.Errorf("cannot encode Commit %s: %w", c.Name, err)
	}
	return &unstructured.Unstructured{Object: fields}, nil
}

// Name is that of the Commit of a pod's container: a container has one at a time. It is shortened if it would be no name.
func Name(pod, container string) string {
	return bounded(pod+"."+container, 253)
}

// ParseImage parses where an image is pushed to: REGISTRY/NAME:TAG, with each of the three.
func ParseImage(image string) (name.Tag, error) {
	if strings.Contains(image, "@") {
		return name.Tag{}, fmt.Errorf("cannot push to image %q: a digest follows from the image: give REGISTRY/NAME:TAG", image)
	}
	tag, err := name.NewTag(image, name.StrictValidation)
	if err == nil {
		_, err = reference.ParseNormalizedNamed(image) // what Docker Engine takes is less
	}
	if err != nil {
		return name.Tag{}, fmt.Errorf("cannot push to image %q: give REGISTRY/NAME:TAG, such as registry.example:5000/shop-web:20261130: %w", image, err)
	}
	return tag, nil
}

// KeyPrefix precedes the keys in etcd under which addresses of committed pods are recorded.
const KeyPrefix = "/commiter/ips/"

// Key returns the key in etcd for an image of a pod with this address, "/commiter/ips/APP-COMPONENT-IP:TAG"; "" if the image is not
// named after the address.
func Key(image string, address netip.Addr) string {
	tag, err := ParseImage(image)
	if err != nil || !address.IsValid() {
		return ""
	}
	last := tag.RepositoryStr()[strings.LastIndex(tag.RepositoryStr(), "/")+1:]
	component, found := strings.CutSuffix(last, "-"+Dashed(address))
	if !found || component == "" {
		return ""
	}
	return KeyPrefix + last + ":" + tag.TagStr()
}

// Dashed writes an address as it can stand in a label, an image's name and an object's name: "198.51.100.1", "fd00--5".
func Dashed(address netip.Addr) string {
	text := address.Unmap().WithZone("").String()
	if strings.HasPrefix(text, ":") {
		text = "0" + text
	}
	if strings.HasSuffix(text, ":") {
		text += "0"
	}
	return strings.ReplaceAll(text, ":", "-")
}
