// Package v1beta1 knows the API of the first Kubernetes (v0.4, October 2014), and converts its objects to and from those of the API
// v1 of today. v1beta2 differs in the word apiVersion only: the same types serve both.
//
// Objects come in as bytes (Decode), become objects of v1 (ToV1, OverlayPod and so on), and go out as they went in 2014 (FromV1Pod
// and so on, then encoding/json). Errors are Statuses with causes by v1beta1 paths. What v1beta1 has no word for is left out when an
// object is read and kept when it is written.
//
// All is values in, values out. The package imports k8s.io/api and k8s.io/apimachinery and must never do I/O. Its functions change
// none of their arguments, unless they say so, and may be called concurrently.
//
// Start reading at Resources, Meta and Pod.
package v1beta1
