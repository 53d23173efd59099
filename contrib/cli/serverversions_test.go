package cli

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/rest"

	"github.com/k8sm/k8sm/api/skew"
)

func TestEachAPIServerIsAskedForItsVersion(t *testing.T) {
	var down atomic.Bool
	serve := func(version string, fails *atomic.Bool) *httptest.Server {
		s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/version" || fails != nil && fails.Load() {
				http.Error(w, "no", http.StatusInternalServerError)
				return
			}
			fmt.Fprintf(w, `{"major":"1","gitVersion":%q}`, version)
		}))
		t.Cleanup(s.Close)
		return s
	}
	one, two := serve("v1.35.4", nil), serve("v1.36.3", &down)
	addressOf := func(s *httptest.Server) string { return strings.TrimPrefix(s.URL, "https://") }
	list := []string{addressOf(one), addressOf(two), "127.0.0.1:1"}
	config := &rest.Config{Host: one.URL, TLSClientConfig: rest.TLSClientConfig{
		CAData: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: one.Certificate().Raw}),
	}}
	v, err := newServerVersions(config, func() []string { return list })
	if err != nil {
		t.Fatal(err)
	}
	if got := v.ask(t.Context()); skew.Unknown(got) == "" || got[0].Version != "" {
		t.Errorf("a server whose certificate is not for the name of API servers tells %v", got)
	}
	config.ServerName = "example.com" // httptest's name
	if v.client, err = rest.HTTPClientFor(config); err != nil {
		t.Fatal(err)
	}
	want := []skew.Server{{Address: list[0], Version: "v1.35.4"}, {Address: list[1], Version: "v1.36.3"}, {Address: list[2]}}
	for range 2 {
		if diff := cmp.Diff(want, v.ask(t.Context())); diff != "" {
			t.Error(diff)
		}
		down.Store(true) // then what it told last holds
	}
	list = list[:1]
	v.ask(t.Context())
	list = append(list, addressOf(two))
	if got := v.ask(t.Context()); got[1].Version != "" {
		t.Errorf("a server that was away and is not known any more is said to be %v", got[1])
	}
}
