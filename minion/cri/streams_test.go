package cri

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/k8sm/k8sm/contrib/test/pipenet"
)

func TestSlowRequestForAStreamIsCutOff(t *testing.T) {
	for name, beginning := range map[string]string{
		"header": "GET /exec/x HTTP/1.1\r\nHost: km\r\nX-Slow: ",
		"body":   "POST /exec/x HTTP/1.1\r\nHost: km\r\nContent-Length: 100000\r\n\r\n",
	} {
		synctest.Test(t, func(t *testing.T) {
			network := pipenet.New()
			server := newStreams(http.NotFoundHandler())
			go func() { _ = server.Serve(network) }()
			defer server.Close()
			if took, err := network.Trickle(beginning); err != nil || took > time.Minute {
				t.Errorf("slow %s: it was connected for %s, %v", name, took, err)
			}
		})
	}
}
