package status

import (
	"context"
	"crypto/tls"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/k8sm/k8sm/contrib/test/pipenet"
)

// inMemory serves in a bubble until the test calls stop.
func inMemory(t *testing.T) (network *pipenet.Listener, stop func()) {
	t.Helper()
	s, err := Listen(configOf(cluster(t)), Shows{
		Scheduler: fakeSource{}, Metrics: prometheus.NewRegistry(), Mesos: fakeMesos{}, Reviewer: unreachable(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	s.listener.Close()
	network = pipenet.New()
	s.listener = network
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx) }()
	return network, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func TestClientThatSendsItsRequestSlowlyIsCutOff(t *testing.T) {
	for name, beginning := range map[string]string{
		"header": "GET /healthz HTTP/1.1\r\nHost: km\r\nX-Slow: ",
		"body":   "POST /healthz HTTP/1.1\r\nHost: km\r\nContent-Length: 100000\r\n\r\n",
	} {
		synctest.Test(t, func(t *testing.T) {
			network, stop := inMemory(t)
			defer stop()
			conn, err := network.Dial("192.0.2.1")
			if err != nil {
				t.Fatal(err)
			}
			secured := tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
			defer secured.Close()
			_, err = fmt.Fprint(secured, beginning)
			go func() {
				for b := make([]byte, 1<<10); ; {
					if _, err := secured.Read(b); err != nil {
						conn.Close()
						return
					}
				}
			}()
			began := time.Now()
			for err == nil && time.Since(began) < time.Hour {
				time.Sleep(time.Second)
				_, err = secured.Write([]byte("x"))
			}
			if took := time.Since(began); took > 2*limits.Request {
				t.Errorf("slow %s: it was connected for %s, %v", name, took, err)
			}
		})
	}
}

func TestSilentConnectionsAreFewAndShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, stop := inMemory(t)
		defer stop()
		open := make(chan struct{}, 1000)
		for range cap(open) {
			conn, err := network.Dial("192.0.2.1")
			if err != nil {
				t.Fatal(err)
			}
			open <- struct{}{}
			go func() {
				defer conn.Close()
				_, _ = conn.Read(make([]byte, 1))
				<-open
			}()
		}
		synctest.Wait()
		if len(open) > limits.PerClient {
			t.Errorf("one client has %d connections open, want %d at most", len(open), limits.PerClient)
		}
		time.Sleep(limits.Request)
		synctest.Wait()
		if len(open) > 0 {
			t.Errorf("%d connections are still open", len(open))
		}
	})
}
