package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/procfs"
	"github.com/sirupsen/logrus"
	"k8s.io/client-go/rest"

	"github.com/k8sm/k8sm/api/footprint"
	protocol "github.com/k8sm/k8sm/api/logs"
	"github.com/k8sm/k8sm/minion/logs"
)

const (
	// minionVariable is an environment variable with the shipment, as JSON, of a process of this program that only ships logs.
	minionVariable = "K8SM_BENCH_SHIP"
	// minionTells is how often the process tells what it has done.
	minionTells = 50 * time.Millisecond
	// minionPatience is how long it may ship nothing.
	minionPatience = 30 * time.Second
)

// shipment is what to ship, and to whom.
type shipment struct {
	Dir, URL, CA string
	Cert, Key    []byte
}

// shipped is what the process has done.
type shipped struct {
	Lines, Dropped int
	// Heap is how many bytes objects have taken at most, with those that were not yet collected, beyond those before shipping.
	Heap uint64
}

// playMinion ships logs as a minion does, from when a byte comes on standard input until that ends.
func playMinion(text string) error {
	var s shipment
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return err
	}
	client, err := rest.HTTPClientFor(&rest.Config{TLSClientConfig: rest.TLSClientConfig{
		CAFile: s.CA, CertData: s.Cert, KeyData: s.Key, ServerName: protocol.ServerName,
	}})
	if err != nil {
		return err
	}
	debug.FreeOSMemory() // what the program needed to begin is not shipping's
	before := heapNow()
	fmt.Println("ready")
	if _, err := os.Stdin.Read(make([]byte, 1)); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	footprint.Follow(ctx)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	registry := prometheus.NewRegistry()
	go tell(ctx, registry, before)
	return logs.Run(ctx, logs.Config{
		Logs: filepath.Join(s.Dir, "pod-logs"), Dir: filepath.Join(s.Dir, "logs"), Store: logs.NewClient(s.URL, client),
		Metrics: logs.NewMetrics(registry), Log: logrus.StandardLogger(),
	})
}

// tell writes what was done to standard output.
func tell(ctx context.Context, registry *prometheus.Registry, before uint64) {
	tick := time.NewTicker(minionTells)
	defer tick.Stop()
	out := json.NewEncoder(os.Stdout)
	var s shipped
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		families, _ := registry.Gather() // it has counters and gauges only
		s.Lines, s.Dropped = 0, 0
		for _, f := range families {
			for _, m := range f.GetMetric() {
				switch f.GetName() {
				case "k8sm_minion_logs_shipped_lines_total":
					s.Lines += int(m.GetCounter().GetValue())
				case "k8sm_minion_logs_dropped_lines_total":
					s.Dropped += int(m.GetCounter().GetValue())
				}
			}
		}
		if now := heapNow(); now > before {
			s.Heap = max(s.Heap, now-before)
		}
		_ = out.Encode(s) // nobody reads it any more when it fails
	}
}

func heapNow() uint64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// minionPart is a process that plays a minion.
type minionPart struct {
	cmd      *exec.Cmd
	in       io.WriteCloser
	resident float64 // MB, before shipping

	mu   sync.Mutex // guards last
	last shipped
}

// startMinion starts the node's minion. It ships when begin is called. stop ends it.
func (l *logsBench) startMinion(ctx context.Context) (stop func(), err error) {
	cert, key, err := l.nodeCertificate()
	if err != nil {
		return nil, err
	}
	address, err := l.storeAddress(ctx)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(shipment{Dir: l.nodeDir(), URL: "https://" + address, CA: l.dir.CA(), Cert: cert, Key: key})
	if err != nil {
		return nil, err
	}
	m := &minionPart{cmd: exec.Command(os.Args[0])}
	m.cmd.Env = append(os.Environ(), minionVariable+"="+string(text))
	m.cmd.Stderr = l.log
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // keep the terminal's Ctrl-C from it: it ends with its standard input
	if m.in, err = m.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := m.cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start the part of a minion: %w", err)
	}
	l.minion = m
	stop = func() {
		_ = m.in.Close()
		_ = m.cmd.Wait()
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		stop()
		return nil, fmt.Errorf("the part of a minion ended: see %s", l.log.Name())
	}
	go m.read(lines)
	u, err := readUsage(m.pid())
	if m.resident = u.resident; err != nil {
		stop()
	}
	return stop, err
}

func (m *minionPart) pid() int { return m.cmd.Process.Pid }

// read takes what the process tells until it ends.
func (m *minionPart) read(lines *bufio.Scanner) {
	for lines.Scan() {
		var s shipped
		if json.Unmarshal(lines.Bytes(), &s) == nil {
			m.mu.Lock()
			m.last = s
			m.mu.Unlock()
		}
	}
}

func (m *minionPart) begin() { _, _ = m.in.Write([]byte("\n")) } // await tells if it has ended

func (m *minionPart) stats() shipped {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.last
}

// await returns when the store has taken so many lines.
func (m *minionPart) await(ctx context.Context, lines int) error {
	tick := time.NewTicker(minionTells / 2)
	defer tick.Stop()
	for last, at := -1, time.Now(); ; {
		s := m.stats()
		switch {
		case s.Lines+s.Dropped >= lines:
			return nil
		case s.Lines != last:
			last, at = s.Lines, time.Now()
		case time.Since(at) > minionPatience:
			return fmt.Errorf("for %s the minion has shipped nothing: %d of %d lines", minionPatience, s.Lines, lines)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// peakResident is the most memory that a process has had, in MB.
func peakResident(pid int) (float64, error) {
	process, err := procfs.NewProc(pid)
	if err != nil {
		return 0, err
	}
	status, err := process.NewStatus()
	return float64(status.VmHWM) / (1 << 20), err
}
