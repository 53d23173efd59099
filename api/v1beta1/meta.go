package v1beta1

import (
	"bytes"
	"fmt"
	"maps"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The versions of the API.
const (
	V1Beta1 = "v1beta1"
	V1Beta2 = "v1beta2"
)

// Versions are the versions of the API that this package knows.
func Versions() []string { return []string{V1Beta1, V1Beta2} }

// Annotations, on objects of v1, that keep what v1 has no word for. v1beta1 does not show them.
const (
	// AnnotationID is the id of an object whose id has capitals. Its name is the same in small letters.
	AnnotationID = "k8sm.io/v1beta1-id"
	// AnnotationFirstPort with the value "true" is on a service without a containerPort: its targetPort follows the first port of
	// the first container of its pods.
	AnnotationFirstPort = "k8sm.io/v1beta1-first-port"
)

// Version is a resource version. It is read from a number, or from a string with a number.
type Version uint64

// UnmarshalJSON implements json.Unmarshaler.
func (v *Version) UnmarshalJSON(data []byte) error {
	data = bytes.Trim(data, `"`)
	if len(data) == 0 || string(data) == "null" {
		*v = 0
		return nil
	}
	n, err := strconv.ParseUint(string(data), 10, 64)
	if err != nil {
		return fmt.Errorf("resourceVersion %s is not a number: use the one that the object was read with", data)
	}
	*v = Version(n)
	return nil
}

// ResourceVersion converts a resource version of v1. What is no number is 0.
func ResourceVersion(s string) Version {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0
	}
	return Version(n)
}

// NameOf is the name in v1 of the object with an id.
func NameOf(id string) string { return strings.ToLower(id) }

// IDOf is the id of an object of v1: its annotation AnnotationID, as long as that is its name but for capitals, or else its name.
func IDOf(o metav1.Object) string {
	if id := o.GetAnnotations()[AnnotationID]; NameOf(id) == o.GetName() {
		return id
	}
	return o.GetName()
}

// Answers tells whether an object is meant by an id: its id, or its name in v1.
func Answers(o metav1.Object, id string) bool { return id == IDOf(o) || id == o.GetName() }

// DefaultNamespace is the namespace of objects that name none.
const DefaultNamespace = metav1.NamespaceDefault

// SelfLink is the path of an object, or with the id "" of a list. The namespace is part of it unless it is the default one or "".
func SelfLink(version, resource, id, namespace string) string {
	link := "/api/" + version + "/" + resource
	if id != "" {
		link += "/" + id
	}
	if namespace != "" && namespace != DefaultNamespace {
		link += "?namespace=" + namespace
	}
	return link
}

// objectMeta converts the metadata of an object that is created, but for what the API server sets.
func (m *Meta) objectMeta(labels map[string]string) metav1.ObjectMeta {
	o := metav1.ObjectMeta{
		Name:        NameOf(m.ID),
		Namespace:   m.Namespace,
		Labels:      maps.Clone(labels),
		Annotations: maps.Clone(m.Annotations),
	}
	delete(o.Annotations, AnnotationFirstPort)
	delete(o.Annotations, AnnotationID)
	if o.Name != m.ID {
		metav1.SetMetaDataAnnotation(&o, AnnotationID, m.ID)
	}
	return o
}

// fromV1 converts the metadata of an object of v1, but for its labels.
func fromV1(o metav1.Object) Meta {
	m := Meta{
		ID:                IDOf(o),
		CreationTimestamp: o.GetCreationTimestamp(),
		ResourceVersion:   ResourceVersion(o.GetResourceVersion()),
		Namespace:         o.GetNamespace(),
		Annotations:       maps.Clone(o.GetAnnotations()),
	}
	delete(m.Annotations, AnnotationID)
	delete(m.Annotations, AnnotationFirstPort)
	return m
}
