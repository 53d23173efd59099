package mesos

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/mesos/mesos-go/api/v1/lib/executor/config"
)

func TestFlagsOfTheAgentAreReadIfItDisclosesThem(t *testing.T) {
	for _, token := range []string{"", "sesame"} {
		agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/flags" {
				t.Errorf("it asks for %s", r.URL)
			}
			if r.Header.Get("Authorization") != "Bearer sesame" {
				w.WriteHeader(http.StatusUnauthorized)
			}
			fmt.Fprint(w, `{"flags":{"isolation":"network/ports","enforce_container_ports":"true"}}`)
		}))
		got, err := AgentFlags(t.Context(), Config{Token: token, Config: config.Config{AgentEndpoint: strings.TrimPrefix(agent.URL, "http://")}})
		agent.Close()
		if told := token != ""; told != (err == nil) || told != (got["isolation"] == "network/ports") {
			t.Errorf("with the token %q: %v, %v", token, got, err)
		}
	}
}
