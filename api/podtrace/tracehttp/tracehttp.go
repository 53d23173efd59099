// Package tracehttp serves the spans of pods' starts (package podtrace) by HTTPS, to who may get the pod: the scheduler and each minion
// serve their own. Start reading at Handler.
package tracehttp

import (
	"encoding/json"
	"net/http"
	"net/url"

	"github.com/sirupsen/logrus"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/callers"
	"github.com/k8sm/k8sm/api/podtrace"
)

// Pattern is the handler's, for a ServeMux.
const Pattern = "GET /pods/{namespace}/{name}/trace"

// Path returns where the spans of the pods with a name are.
func Path(pod api.PodKey) string {
	return "/pods/" + url.PathEscape(pod.Namespace) + "/" + url.PathEscape(pod.Name) + "/trace"
}

// Handler serves what a book has of the pods that have or had a name, the latest first, as a JSON list of podtrace.Trace. The trusted
// users read all; see callers.Access.
func Handler(access callers.Access, book *podtrace.Book, trusted ...string) http.Handler {
	return access.Guard(readsPod, trusted...)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(book.Of(podOf(r))); err != nil {
			logrus.WithError(err).Debug("cannot send a pod's spans to the client")
		}
	}))
}

func podOf(r *http.Request) api.PodKey {
	return api.PodKey{Namespace: r.PathValue("namespace"), Name: r.PathValue("name")}
}

// readsPod is the right to get the pod in the API.
func readsPod(caller user.Info, r *http.Request) authorizer.AttributesRecord {
	pod := podOf(r)
	return authorizer.AttributesRecord{
		User: caller, Verb: "get", APIVersion: "v1", Resource: "pods", Namespace: pod.Namespace, Name: pod.Name, ResourceRequest: true, Path: r.URL.Path,
	}
}
