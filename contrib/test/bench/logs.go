package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"github.com/k8sm/k8sm/contrib/logs/client"
	"github.com/k8sm/k8sm/contrib/test/scratch"
)

const (
	// logWriters are the pods that have written all the lines; one more writes at a steady rate.
	logWriters = 20
	// logSteps are the parts of the lines whose rates are told apart.
	logSteps = 10
	// logSettle is for how long the store's files have kept their size when they are measured.
	logSettle = 10 * time.Second
)

// storedLogs measures a cluster's logs, with a real control plane and its `km logstore`, and with a process that is the part of a minion
// which ships logs: how fast they take lines of 200 bytes and what that costs each of them, how soon a line is found, how much disk a byte
// of log takes, and how long queries over all lines take, by the API server. The peer of the queries is grep on the files that were shipped,
// which the kernel has in memory.
func (b *bench) storedLogs(ctx context.Context) error {
	if err := b.logMix(ctx); err != nil {
		return fmt.Errorf("a mix of real logs: %w", err)
	}
	return b.inLogs(ctx, func(l *logsBench) error {
		if err := l.addPods(ctx, logWriters+1); err != nil {
			return err
		}
		size, err := l.writeLines(b.logLines)
		if err != nil {
			return err
		}
		stop, err := l.startMinion(ctx)
		if err != nil {
			return err
		}
		defer stop()
		if err := l.ship(ctx, b.logLines); err != nil {
			return err
		}
		if err := l.latency(ctx); err != nil {
			return err
		}
		if err := l.minionMemory(); err != nil {
			return err
		}
		used, err := l.disk(ctx)
		if err != nil {
			return err
		}
		printAll(single("logs_disk_per_byte_of_lines", "bytes", float64(used)/float64(size)))
		return l.searches(ctx, b.rounds)
	})
}

// logsBench is a control plane with its log store, a node, its pods, and the part of its minion.
type logsBench struct {
	*hollow
	store  int // the process `km logstore`
	client *client.Client
	pods   []logPod
	minion *minionPart
}

// inPlane runs a control plane with these flags in a directory of its own on disk.
func (b *bench) inPlane(ctx context.Context, flags []string, use func(*hollow) error) error {
	dir, err := os.MkdirTemp("", "k8sm-bench-")
	if err != nil {
		return err
	}
	h := newHollow(dir, fleet{})
	defer func() {
		h.stop()
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), logSettle)
		defer cancel()
		poll(ending, func() bool { return os.RemoveAll(dir) == nil }) // what the control plane started writes until the kernel has killed it
	}()
	if err := h.start(ctx, b.km, flags...); err != nil {
		return err
	}
	return use(h)
}

// inLogs runs a control plane with a log store. They have the machine's address, because minions do not reach a store on loopback.
func (b *bench) inLogs(ctx context.Context, use func(*logsBench) error) error {
	port, err := scratch.FreePort()
	if err != nil {
		return err
	}
	// The store keeps the audit log, too, which is not what is measured.
	flags := []string{"--bind-address=0.0.0.0", "--metrics=false", "--dns-replicas=0", "--audit-log-path=", "--logs-port=" + strconv.Itoa(port)}
	return b.inPlane(ctx, flags, func(h *hollow) error {
		l := &logsBench{hollow: h}
		var err error
		if l.client, err = client.New(l.rest); err != nil {
			return err
		}
		err = await(ctx, "the log store did not answer", func() bool { _, err := l.count(ctx, "*"); return err == nil })
		if err != nil {
			return err
		}
		if l.store, err = processOf("logstore", "--state-dir="+string(h.dir)); err != nil {
			return err
		}
		return use(l)
	})
}

// count returns how many lines of the namespace a filter finds.
func (l *logsBench) count(ctx context.Context, filter string) (n int, err error) {
	err = l.ask(ctx, filter+" | stats count() as n", func(row map[string]string) error {
		n, err = strconv.Atoi(row["n"])
		return err
	})
	return n, err
}

// disk returns the size of the store's files when it has written and merged all.
func (l *logsBench) disk(ctx context.Context) (int64, error) {
	for last, since := int64(-1), time.Now(); ; {
		size, err := sizeOf(filepath.Join(l.dir.Logs(), "data"))
		switch {
		case err != nil:
			return 0, err
		case size != last:
			last, since = size, time.Now()
		case time.Since(since) > logSettle:
			return size, nil
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// sizeOf returns the size of all files below a directory. Files may go meanwhile.
func sizeOf(dir string) (size int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err == nil:
			size += info.Size()
		}
		return err
	})
	return size, err
}

// ship has the minion ship all the lines, and measures it and the store.
func (l *logsBench) ship(ctx context.Context, lines int) error {
	pids := []int{l.minion.pid(), l.store, l.control.pid()}
	before, err := cpuOf(pids)
	if err != nil {
		return err
	}
	rate := figure{name: "logs_ship_rate", unit: "lines/s"}
	began := time.Now()
	l.minion.begin()
	for step := 1; step <= logSteps; step++ {
		from, at := l.minion.stats().Lines, time.Now()
		if err := l.minion.await(ctx, lines*step/logSteps); err != nil {
			return err
		}
		rate.rounds = append(rate.rounds, float64(l.minion.stats().Lines-from)/time.Since(at).Seconds())
	}
	took := time.Since(began).Seconds()
	after, err := cpuOf(pids)
	if err != nil {
		return err
	}
	if err := await(ctx, "queries did not find all lines", func() bool { n, err := l.count(ctx, "*"); return err == nil && n == lines }); err != nil {
		return err
	}
	per := 1e5 / float64(lines) // processor time a 100,000 lines
	minion, store := single("logs_ship_minion_cpu", "s/100,000-lines", per*(after[0]-before[0])), single("logs_ship_store_cpu", "s/100,000-lines", per*(after[1]-before[1]))
	rate.print(os.Stdout)
	printAll(minion, store, single("logs_ship_average", "lines/s", float64(lines)/took))
	fmt.Printf("%d lines took %.1f s: of the %d processors the minion's part used %.2f, the store %.2f and the API server %.2f\n", lines, took, runtime.NumCPU(),
		(after[0]-before[0])/took, (after[1]-before[1])/took, (after[2]-before[2])/took)
	return nil
}

// cpuOf returns the processor time of each process, in seconds.
func cpuOf(pids []int) ([]float64, error) {
	all := make([]float64, len(pids))
	for i, pid := range pids {
		u, err := readUsage(pid)
		if err != nil {
			return nil, err
		}
		all[i] = u.cpu
	}
	return all, nil
}

// minionMemory tells how much memory shipping has taken at most, beyond what the process had before.
func (l *logsBench) minionMemory() error {
	peak, err := peakResident(l.minion.pid())
	if err != nil {
		return err
	}
	s := l.minion.stats()
	if s.Dropped > 0 {
		return fmt.Errorf("the minion dropped %d lines", s.Dropped)
	}
	printAll(single("logs_minion_heap", "MB", float64(s.Heap)/(1<<20)), single("logs_minion_memory", "MB", peak-l.minion.resident))
	return nil
}

// parameters of a query over the whole time.
func queryOf(text string) url.Values { return url.Values{"query": {text}} }
