package minion

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestChildThatWasHealthyAndHangsIsFoundOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		asked := 0
		err := health{func(ctx context.Context) error {
			asked++
			switch {
			case asked <= 20: // it starts slowly
				return errors.New("connection refused")
			case asked == 21, asked == 24: // two failures in a row are no hang
				return nil
			}
			return hang(ctx)
		}, probeEvery}.watch(t.Context())
		if err == nil || !strings.Contains(err.Error(), "3 health checks") || asked != 27 {
			t.Errorf("after %d probes: %v", asked, err)
		}
		if took := time.Since(began); took > 24*probeEvery+5*(probeEvery+probeTimeout) {
			t.Errorf("it took %s", took)
		}
	})
}

func TestChildThatNeverBecomesHealthyIsFoundOutLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		err := health{func(context.Context) error { return errors.New("no certificate yet") }, probeEvery}.watch(t.Context())
		if took := time.Since(began); err == nil || !strings.Contains(err.Error(), "no certificate yet") || took < startLimit || took > startLimit+2*probeEvery {
			t.Errorf("after %s: %v", took, err)
		}
	})
}

func TestWatchOfAHealthyChildEndsWithIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		err := health{func(context.Context) error { return nil }, probeEvery}.watch(ctx)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

func TestChildThatHangsIsKilledAndSaysWhy(t *testing.T) {
	ready := make(chan struct{})
	c := testChild("defy", &watchedBuffer{want: "ready", seen: ready})
	asked := 0
	c.health = &health{func(context.Context) error {
		<-ready
		if asked++; asked == 1 {
			return nil
		}
		return errors.New("no answer")
	}, 10 * time.Millisecond}
	err := c.run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "km child: it has failed 3 health checks in a row: no answer") {
		t.Error(err)
	}
}

func TestHealthIsWhatTheEndpointSays(t *testing.T) {
	status := http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(status)
		fmt.Fprint(w, "syncloop failed at "+r.URL.Path)
	}))
	defer server.Close()
	port := server.Listener.Addr().(*net.TCPAddr).Port
	if err := getHealth(t.Context(), port, "/livez"); err != nil {
		t.Error(err)
	}
	status = http.StatusInternalServerError
	if err := getHealth(t.Context(), port, "/livez"); !errors.As(err, &unhealthy{}) || !strings.Contains(err.Error(), "syncloop failed at /livez") {
		t.Error(err)
	}
	server.Close()
	if err := getHealth(t.Context(), port, "/livez"); err == nil || errors.As(err, &unhealthy{}) {
		t.Errorf("of one that does not listen: %v", err)
	}
}

func TestLogsInTheSandboxAreRotatedAndBounded(t *testing.T) {
	n := node{}
	n.env.Sandbox = t.TempDir()
	log := n.sandboxLog("kubelet")
	defer log.Close()
	line := []byte(strings.Repeat("x", 1<<20-1) + "\n")
	for range 100 {
		if _, err := log.Write(line); err != nil {
			t.Fatal(err)
		}
	}
	deadline := time.After(30 * time.Second)
	for { // what is too old is removed by a goroutine of its own
		files, err := filepath.Glob(filepath.Join(n.env.Sandbox, "kubelet*.log"))
		if err != nil {
			t.Fatal(err)
		}
		var size int64
		for _, file := range files {
			if info, err := os.Stat(file); err == nil {
				size += info.Size()
			}
		}
		if len(files) == 4 && size <= 40<<20 {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("100 MB became %d bytes in %v", size, files)
		case <-time.After(10 * time.Millisecond):
		}
	}
}
