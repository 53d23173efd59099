// Package protobuf makes clients of the Kubernetes API that speak protobuf. It must import nothing of k8sm.
package protobuf

import (
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// NewClient returns a client that speaks protobuf, which costs both sides a fraction of JSON. It is for built-in types only: custom
// resources have no protobuf
// (https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding).
func NewClient(config *rest.Config) (kubernetes.Interface, error) {
	config = rest.CopyConfig(config)
	config.ContentType = runtime.ContentTypeProtobuf
	config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	return kubernetes.NewForConfig(config)
}
