package localmesos

import (
	"bytes"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/k8sm/k8sm/contrib/test/pipenet"
)

func TestSlowRequestIsCutOff(t *testing.T) {
	for name, beginning := range map[string]string{
		"header": "GET /state HTTP/1.1\r\nHost: km\r\nX-Slow: ",
		"body":   "POST /state HTTP/1.1\r\nHost: km\r\nContent-Length: 100000\r\n\r\n",
	} {
		synctest.Test(t, func(t *testing.T) {
			network := pipenet.New()
			s := serve(network, http.NotFoundHandler(), nil)
			if took, err := network.Trickle(beginning); err != nil || took > time.Minute {
				t.Errorf("slow %s: it was connected for %s, %v", name, took, err)
			}
			s.close()
		})
	}
}

// TestSlowAnswerIsNotCutOff has a stream that lasts, as those of schedulers and executors do.
func TestSlowAnswerIsNotCutOff(t *testing.T) {
	for name, request := range map[string]string{
		"without a body": "GET / HTTP/1.1\r\nHost: km\r\n\r\n",
		"with a body":    "POST / HTTP/1.1\r\nHost: km\r\nContent-Length: 4\r\n\r\nbody",
	} {
		synctest.Test(t, func(t *testing.T) {
			network := pipenet.New()
			ended := make(chan error, 1)
			s := serve(network, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				select {
				case <-r.Context().Done():
					ended <- r.Context().Err()
				case <-time.After(time.Hour):
					ended <- nil
				}
			}), nil)
			conn, err := network.Dial("192.0.2.1")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(conn, bytes.NewBufferString(request)); err != nil {
				t.Fatal(err)
			}
			if err := <-ended; err != nil {
				t.Errorf("%s: %v", name, err)
			}
			conn.Close()
			s.close()
		})
	}
}
