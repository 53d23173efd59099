package artifact

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spf13/pflag"

	"github.com/k8sm/k8sm/contrib/test/pipenet"
)

// inMemory serves a program of size bytes that does not pack, in a bubble, until the test calls stop.
func inMemory(t *testing.T, size int, c Config) (s *Server, network *pipenet.Listener, stop func()) {
	t.Helper()
	program := make([]byte, size)
	_, _ = rand.Read(program) // never fails
	c.Address, c.Program = "127.0.0.1:0", filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(c.Program, program, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Listen(c, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.listener.Close()
	network = pipenet.New()
	s.listener = network
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx) }()
	<-s.packed
	return s, network, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// fetch downloads the archive from an address, and returns how much came.
func fetch(s *Server, network *pipenet.Listener, from string) (int64, error) {
	conn, err := network.Dial(from)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: km\r\nConnection: close\r\n\r\n", s.path())
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	return io.Copy(io.Discard, response.Body)
}

// drain reads until the server closes the connection. It takes at most step bytes at a time, each after a pause.
func drain(conn net.Conn, step int, pause time.Duration) (taken int) {
	buffer := make([]byte, step)
	for {
		n, err := conn.Read(buffer)
		if taken += n; err != nil {
			return taken
		}
		time.Sleep(pause) // in a bubble: it takes no time
	}
}

func TestIdleConnectionsAreFewAndShortAndStarveNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, network, stop := inMemory(t, 1<<10, Config{})
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
				drain(conn, 1, 0)
				<-open
			}()
		}
		synctest.Wait()
		if len(open) > maxPerClient {
			t.Errorf("one client has %d connections open, want %d at most", len(open), maxPerClient)
		}
		if n, err := fetch(s, network, "192.0.2.2"); err != nil || n != s.archive.size {
			t.Errorf("another client got %d bytes of %d, %v", n, s.archive.size, err)
		}
		time.Sleep(requestTimeout)
		synctest.Wait()
		if len(open) > 0 {
			t.Errorf("%d connections are still open", len(open))
		}
	})
}

func TestClientThatSendsItsRequestSlowlyIsCutOff(t *testing.T) {
	for name, fast := range map[string]string{
		"header":              "GET %s HTTP/1.1\r\nHost: km\r\nX-Slow: ",
		"body":                "POST / HTTP/1.1\r\nHost: km\r\nContent-Length: 100000\r\n\r\n",
		"body to the archive": "GET %s HTTP/1.1\r\nHost: km\r\nContent-Length: 100000\r\n\r\n",
	} {
		synctest.Test(t, func(t *testing.T) {
			s, network, stop := inMemory(t, 1<<10, Config{})
			defer stop()
			took, err := network.Trickle(strings.Replace(fast, "%s", s.path(), 1))
			if err != nil || took > 2*requestTimeout {
				t.Errorf("slow %s: it was connected for %s, %v", name, took, err)
			}
		})
	}
}

func TestClientThatTakesAByteASecondIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, network, stop := inMemory(t, 100<<10, Config{})
		defer stop()
		conn, err := network.Dial("192.0.2.1")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		began := time.Now()
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: km\r\n\r\n", s.path())
		if taken, took := drain(conn, 1, time.Second), time.Since(began); took > 2*patience {
			t.Errorf("it was served for %s, and got %d bytes", took, taken)
		}
	})
}

func TestClientOnASlowLinkGetsTheWholeArchive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, network, stop := inMemory(t, 2<<20, Config{})
		defer stop()
		conn, err := network.Dial("192.0.2.1")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		began := time.Now()
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: km\r\nConnection: close\r\n\r\n", s.path())
		taken := drain(conn, 2*slowest, time.Second)
		if took := time.Since(began); int64(taken) < s.archive.size || took < 2*patience {
			t.Errorf("it got %d bytes of %d in %s", taken, s.archive.size, took)
		}
	})
}

// TestRateIsThatOfAllDownloadsTogether has as many agents as a large cluster whose km is replaced.
func TestRateIsThatOfAllDownloadsTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const agents = 500
		s, network, stop := inMemory(t, 100<<10, Config{Rate: "1Mi"})
		defer stop()
		began := time.Now()
		var all sync.WaitGroup
		for i := range agents {
			all.Go(func() {
				if n, err := fetch(s, network, fmt.Sprintf("192.0.%d.%d", i/250, i%250)); err != nil || n != s.archive.size {
					t.Errorf("agent %d got %d bytes of %d, %v", i, n, s.archive.size, err)
				}
			})
		}
		all.Wait()
		seconds := float64(agents*s.archive.size) / (1 << 20)
		if took := time.Since(began).Seconds(); took < 0.9*seconds || took > 1.1*seconds {
			t.Errorf("all took %.0f s, want %.0f", took, seconds)
		}
	})
}

func TestRateIsBytesASecond(t *testing.T) {
	var c Config
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	c.AddFlags(fs)
	if err := c.Validate(); c.Rate != "" || err != nil {
		t.Errorf("the default is %q, %v", c.Rate, err)
	}
	for text, wrong := range map[string]bool{"50M": false, "1Gi": false, "fast": true, "0": true, "-1": true} {
		if err := fs.Parse([]string{"--artifact-rate=" + text}); err != nil {
			t.Fatal(err)
		}
		if err := c.Validate(); wrong != (err != nil) || wrong && !strings.Contains(err.Error(), "--artifact-rate="+text) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
