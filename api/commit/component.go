package commit

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"maps"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"

	"github.com/k8sm/k8sm/api"
)

// Component is a part of an application whose pods are committed.
type Component struct {
	// Registry is HOST[:PORT], with a path if the registry's projects need one.
	Registry string
	// App and Name are DNS labels.
	App, Name string
	// Tag is the images' tag, usually a day: "20261130".
	Tag string
}

// longestName leaves room for what a ReplicationController and the API server add to the names of its pods.
const longestName = 200

// Validate finds what would make no name of an image or an object.
func (c Component) Validate() error {
	for what, text := range map[string]string{"app": c.App, "component": c.Name} {
		if wrong := validation.IsDNS1123Label(text); len(wrong) > 0 {
			return fmt.Errorf("cannot use --%s=%s: %s", what, text, wrong[0])
		}
	}
	longest := netip.MustParseAddr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")
	if length := len(c.PodRC(longest)); length > longestName {
		return fmt.Errorf("cannot use --app=%s --component=%s: with an address they make a name of %d characters, and %d are possible", c.App, c.Name, length, longestName)
	}
	if _, err := ParseImage(c.Image(longest)); err != nil {
		return fmt.Errorf("cannot use --registry=%s --tag=%s: %w", c.Registry, c.Tag, err)
	}
	return nil
}

// PodRC is the name of what takes the pod with this address over, and of the pod's image: APP-COMPONENT-IP.
func (c Component) PodRC(address netip.Addr) string {
	return c.App + "-" + c.Name + "-" + Dashed(address)
}

// Image is where the image of the pod with this address is pushed to: REGISTRY/APP-COMPONENT-IP:TAG.
func (c Component) Image(address netip.Addr) string {
	return strings.TrimSuffix(c.Registry, "/") + "/" + c.PodRC(address) + ":" + c.Tag
}

// Folder is where the component's files are uploaded to: "/APP/COMPONENT".
func (c Component) Folder() string { return "/" + c.App + "/" + c.Name }

// Replica is a pod whose container was committed.
type Replica struct {
	// Container was committed to Image.
	Container, Image string
	// Address is the pod's, of the address pool Pool.
	Address netip.Addr
	Pool    string
}

// PodRC returns the ReplicationController, named as given, that makes this pod again, and that adopts it where it runs: one replica of
// the old controller's template with the committed image and the pod's address.
func PodRC(name string, old *corev1.ReplicationController, r Replica) (*corev1.ReplicationController, error) {
	if old.Spec.Template == nil {
		return nil, fmt.Errorf("cannot make a pod_rc of ReplicationController %s: it has no pod template", old.Name)
	}
	spec := old.Spec.DeepCopy()
	rc := &corev1.ReplicationController{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ReplicationController"},
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: old.Namespace, Labels: with(old.Labels, LabelIP, Dashed(r.Address)), Annotations: written(old.Annotations),
		},
		Spec: *spec,
	}
	one := int32(1)
	rc.Spec.Replicas = &one
	if len(rc.Spec.Selector) == 0 { // the API server's default
		rc.Spec.Selector = rc.Spec.Template.Labels
	}
	rc.Spec.Selector = with(rc.Spec.Selector, LabelIP, Dashed(r.Address))
	template := rc.Spec.Template
	template.Labels = with(template.Labels, LabelIP, Dashed(r.Address))
	template.Annotations = with(with(written(template.Annotations), api.AnnotationIPPool, r.Pool), api.AnnotationIP, r.Address.String())
	for i := range template.Spec.Containers {
		c := &template.Spec.Containers[i]
		if c.Name != r.Container {
			continue
		}
		c.Image = r.Image
		if c.ImagePullPolicy == corev1.PullNever { // which was right for the old image, and this one is in a registry
			c.ImagePullPolicy = corev1.PullIfNotPresent
		}
		return rc, nil
	}
	return nil, fmt.Errorf("cannot make a pod_rc of ReplicationController %s: its template has no container %s", old.Name, r.Container)
}

// Saved returns the controller as a client would create it again.
func Saved(rc *corev1.ReplicationController) *corev1.ReplicationController {
	return &corev1.ReplicationController{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ReplicationController"},
		ObjectMeta: metav1.ObjectMeta{Name: rc.Name, Namespace: rc.Namespace, Labels: maps.Clone(rc.Labels), Annotations: written(rc.Annotations)},
		Spec:       *rc.Spec.DeepCopy(),
	}
}

// Marshal writes a controller as YAML, without its status.
func Marshal(rc *corev1.ReplicationController) ([]byte, error) {
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(rc)
	if err != nil {
		return nil, fmt.Errorf("cannot encode ReplicationController %s: %w", rc.Name, err)
	}
	delete(fields, "status")
	for _, metadata := range []any{fields["metadata"], dig(fields, "spec", "template", "metadata")} {
		if m, ok := metadata.(map[string]any); ok && m["creationTimestamp"] == nil {
			delete(m, "creationTimestamp")
		}
	}
	return yaml.Marshal(fields)
}

func dig(fields map[string]any, path ...string) any {
	var at any = fields
	for _, key := range path {
		m, ok := at.(map[string]any)
		if !ok {
			return nil
		}
		at = m[key]
	}
	return at
}

// Unmarshal reads a controller that Marshal wrote. A field that no controller has is an error.
func Unmarshal(data []byte) (*corev1.ReplicationController, error) {
	rc := new(corev1.ReplicationController)
	if err := yaml.UnmarshalStrict(data, rc); err != nil {
		return nil, fmt.Errorf("it is no ReplicationController: %s", strings.Join(strings.Fields(err.Error()), " "))
	}
	if rc.Kind != "ReplicationController" || rc.APIVersion != "v1" || rc.Name == "" {
		return nil, fmt.Errorf("it is no ReplicationController of v1 with a name, but a %s", cmp.Or(rc.Kind, "file without a kind"))
	}
	return rc, nil
}

// written returns the annotations that people have written: not those of kubectl's bookkeeping, nor the scheduler's answers, which the
// API server refuses in templates.
func written(annotations map[string]string) map[string]string {
	kept := maps.Clone(annotations)
	delete(kept, corev1.LastAppliedConfigAnnotation)
	for _, key := range api.PodSchedulerAnnotations() {
		delete(kept, key)
	}
	return kept
}

func with(labels map[string]string, key, value string) map[string]string {
	all := maps.Clone(labels)
	if all == nil {
		all = map[string]string{}
	}
	all[key] = value
	return all
}

// bounded shortens a name to a length; a hash keeps it unique.
func bounded(name string, length int) string {
	if len(name) <= length {
		return name
	}
	h := fnv.New64a()
	h.Write([]byte(name))
	sum := "-" + hex.EncodeToString(h.Sum(nil))
	return strings.TrimRight(name[:length-len(sum)], ".-") + sum
}
