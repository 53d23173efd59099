package gateway

import (
	"context"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/k8sm/k8sm/api/balancer"
)

// ofTwo makes gateways of an API server reach it at a second address, too. The first one can be killed.
func ofTwo(t *testing.T, api *fakeAPI) (killFirst func()) {
	t.Helper()
	api.admin = administrator(t, api.dir)
	at := func() (net.Listener, string) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l, l.Addr().String()
	}
	first, firstAddress := at()
	second, secondAddress := at()
	api.admin.Host = "https://" + firstAddress
	kill := api.listen(t, first)
	api.listen(t, second)
	servers, err := balancer.Use(api.admin)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = servers.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	return func() {
		servers.Set([]string{firstAddress, secondAddress})
		kill()
	}
}

// Every kind of caller has connections of its own to the API servers.
func TestGatewayGoesOnWithAnotherAPIServer(t *testing.T) {
	api := newFakeAPI(t)
	killFirst := ofTwo(t, api)
	api.put(aPod("default", "old", nil))
	g := start(t, api, func(c *Config) { c.Insecure = true })
	callers := map[string]*running{
		"a token": g, "a certificate": g.as("", api.certificate(t, "alice", "people")), "nothing on loopback": g.as(""),
	}
	works := func(when string) {
		t.Helper()
		for who, g := range callers {
			for began := time.Now(); ; {
				response, body := g.ask("GET /api/v1beta1/pods", "")
				if response.StatusCode == http.StatusOK {
					break
				}
				if time.Since(began) > 30*time.Second {
					t.Fatalf("%s, who shows %s gets %d %s", when, who, response.StatusCode, body)
				}
			}
		}
	}
	works("with the first server")
	watch := g.watch(t, "pods")
	killFirst()
	works("without it")
	for watch.lines.Scan() { // its client learns that it has ended, and watches again
	}
	again := g.watch(t, "pods")
	api.put(aPod("default", "new", nil))
	again.wants("ADDED new 12")
}
