package mesos

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/mesos/mesos-go/api/v1/lib/executor/config"
)

func TestFlagsOfTheAgentAreReadIfItTellsThem(t *testing.T) {
	for _, status := range []int{http.StatusOK, http.StatusUnauthorized} {
		agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/flags" {
				t.Errorf("it asks for %s", r.URL)
			}
			w.WriteHeader(status)
			fmt.Fprint(w, `{"flags":{"isolation":"network/ports","enforce_container_ports":"true"}}`)
		}))
		got, err := AgentFlags(t.Context(), Config{Config: config.Config{AgentEndpoint: strings.TrimPrefix(agent.URL, "http://")}})
		agent.Close()
		if told := status == http.StatusOK; told != (err == nil) || told != (got["isolation"] == "network/ports") {
			t.Errorf("%d: %v, %v", status, got, err)
		}
	}
}
