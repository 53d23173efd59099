package protobuf

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

func TestClientSpeaksProtobuf(t *testing.T) {
	var sent, wanted string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent, wanted = r.Header.Get("Content-Type"), r.Header.Get("Accept")
		w.WriteHeader(http.StatusTeapot)
	}))
	defer server.Close()
	config := &rest.Config{Host: server.URL}
	client, err := NewClient(config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().Pods("default").Create(t.Context(), &v1.Pod{}, metav1.CreateOptions{}); err == nil {
		t.Error("a teapot made a pod")
	}
	const protobuf = "application/vnd.kubernetes.protobuf"
	if sent != protobuf || !strings.HasPrefix(wanted, protobuf) {
		t.Errorf("sent %q and wants %q", sent, wanted)
	}
	if config.ContentType != "" {
		t.Error("the caller's configuration was changed")
	}
}
