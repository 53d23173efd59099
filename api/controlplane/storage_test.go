package controlplane

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/types"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/k8sm/k8sm/api/statedir"
)

// What values in etcd begin with.
const (
	asJSON      = `{"kind":`
	asProtobuf  = "k8s\x00"
	asEncrypted = "k8s:enc:secretbox:v1:"
)

// TestObjectsAreReadInEitherEncoding goes from an etcd that is all JSON to ours, and back.
func TestObjectsAreReadInEitherEncoding(t *testing.T) {
	dir := statedir.Dir(t.TempDir())
	const allJSON = childFlags + "=--kube-apiserver-arg=storage-media-type=application/json"
	running := startChild(t, dir, allJSON)
	s := stores{dir: dir, api: clientOf(t, adminConfig(t, dir))}
	s.create(t)
	s.check(t, "/registry/configmaps/default/kept", asJSON)
	s.check(t, "/registry/minions/of-json", asJSON)
	running.kill(t)

	running = startChild(t, dir)
	s.api = clientOf(t, adminConfig(t, dir))
	s.put(t, "/registry/minions/of-protobuf", &corev1.Node{ObjectMeta: metav1.ObjectMeta{
		Name: "of-protobuf", UID: "00000000-0000-4000-8000-000000000001", Labels: map[string]string{"kept": "yes"},
	}})
	s.update(t, "first")
	for key, want := range map[string]string{
		"configmaps/default/kept": asProtobuf, "secrets/default/kept": asEncrypted, "minions/of-json": asJSON, "minions/of-protobuf": asJSON,
		"events/default/kept": asProtobuf, "apiextensions.k8s.io/customresourcedefinitions/commits.k8sm.io": asJSON,
	} {
		s.check(t, "/registry/"+key, want)
	}
	running.stop(t)

	running = startChild(t, dir, allJSON)
	s.api = clientOf(t, adminConfig(t, dir))
	s.update(t, "second")
	s.check(t, "/registry/configmaps/default/kept", asJSON)
	s.check(t, "/registry/events/default/kept", asJSON)
	running.stop(t)
}

// stores reads and writes the same objects through the API and in etcd.
type stores struct {
	dir statedir.Dir
	api kubernetes.Interface
}

// create creates an object of each kind, with the label kept.
func (s stores) create(t *testing.T) {
	t.Helper()
	meta := metav1.ObjectMeta{Name: "kept", Labels: map[string]string{"kept": "yes"}}
	core := s.api.CoreV1()
	_, err := core.ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: meta}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := core.Secrets("default").Create(t.Context(), &corev1.Secret{ObjectMeta: meta}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	event := &corev1.Event{ObjectMeta: meta, InvolvedObject: corev1.ObjectReference{Namespace: "default"}}
	if _, err := core.Events("default").Create(t.Context(), event, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	meta.Name = "of-json"
	if _, err := core.Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: meta}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// update checks that each object has its label, and adds another.
func (s stores) update(t *testing.T, label string) {
	t.Helper()
	patch := []byte(`{"metadata":{"labels":{"` + label + `":"yes"}}}`)
	options := metav1.PatchOptions{}
	core := s.api.CoreV1()
	for what, write := range map[string]func(context.Context) (metav1.Object, error){
		"ConfigMap": func(ctx context.Context) (metav1.Object, error) {
			return core.ConfigMaps("default").Patch(ctx, "kept", types.MergePatchType, patch, options)
		},
		"Secret": func(ctx context.Context) (metav1.Object, error) {
			return core.Secrets("default").Patch(ctx, "kept", types.MergePatchType, patch, options)
		},
		"Event": func(ctx context.Context) (metav1.Object, error) {
			return core.Events("default").Patch(ctx, "kept", types.MergePatchType, patch, options)
		},
		"Node stored as JSON": func(ctx context.Context) (metav1.Object, error) {
			return core.Nodes().Patch(ctx, "of-json", types.MergePatchType, patch, options)
		},
		"Node stored as protobuf": func(ctx context.Context) (metav1.Object, error) {
			return core.Nodes().Patch(ctx, "of-protobuf", types.MergePatchType, patch, options)
		},
	} {
		object, err := write(t.Context())
		if err != nil {
			t.Errorf("%s: %v", what, err)
		} else if labels := object.GetLabels(); labels["kept"] != "yes" || labels[label] != "yes" {
			t.Errorf("%s: labels are %v", what, labels)
		}
	}
}

// put writes a node to etcd as protobuf.
func (s stores) put(t *testing.T, key string, node *corev1.Node) {
	t.Helper()
	encoder := scheme.Codecs.EncoderForVersion(protobuf.NewSerializer(scheme.Scheme, scheme.Scheme), corev1.SchemeGroupVersion)
	value, err := runtime.Encode(encoder, node)
	if err != nil {
		t.Fatal(err)
	}
	r, err := newRewriter(s.dir, apiserverv1.Key{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	if _, err := r.etcd.Put(t.Context(), key, string(value)); err != nil {
		t.Fatal(err)
	}
}

// check reads what etcd has.
func (s stores) check(t *testing.T, key, prefix string) {
	t.Helper()
	r, err := newRewriter(s.dir, apiserverv1.Key{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	page, err := r.etcd.Get(t.Context(), key)
	if err != nil || len(page.Kvs) != 1 {
		t.Fatalf("%s: got %v, %v", key, page, err)
	}
	if value := string(page.Kvs[0].Value); !strings.HasPrefix(value, prefix) {
		t.Errorf("%s begins with %q, want %q", key, value[:min(len(value), 30)], prefix)
	}
}
