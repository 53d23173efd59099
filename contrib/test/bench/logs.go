package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/k8sm/k8sm/api/logs"
	"github.com/k8sm/k8sm/contrib/logs/receive"
	"github.com/k8sm/k8sm/contrib/logs/store"
)

const (
	// logLines are the lines of all pods, and logPods the pods.
	logLines, logPods = 10_000_000, 20
	// logBatch is how large a batch is, as those of minions are.
	logBatch = 1 << 20
	// needle is in one line of needleEvery.
	needle, needleEvery = "deadline exceeded", 100_000
)

// everywhere are places that know all pods.
type everywhere struct{}

// Place implements receive.Places.
func (everywhere) Place(_ context.Context, _, _, pod, _ string) receive.Place {
	return receive.Place{Labels: map[string]string{"app": "web", "pod-template-hash": "7d9c5"}, Owner: "ReplicaSet/web-7d9c5-" + pod}
}

// logStore measures the log store in this process: how many lines a second it takes from a node and writes to disk, how much disk a
// byte of log takes, and how long a search over all lines takes. The peer of the searches is grep on the same lines in plain files, which
// the kernel has in memory.
func (b *bench) logStore(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp("", "k8sm-bench-logs-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // a scratch directory
	entries, err := store.Open(store.Config{Dir: filepath.Join(dir, "store"), Retention: 7 * 24 * time.Hour, MinFree: 1 << 20, Memory: 128 << 20})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, entries.Close()) }()
	n := &logNode{server: receive.New(entries, everywhere{}, 0), random: rand.New(rand.NewPCG(1, 2))}
	taken, size, err := n.fill(ctx, dir, entries)
	if err != nil {
		return err
	}
	(&figure{name: "logs_into_store", unit: "lines/s", rounds: []float64{logLines / taken.Seconds()}}).print(os.Stdout)
	used, err := sizeOf(filepath.Join(dir, "store"))
	if err != nil {
		return err
	}
	(&figure{name: "logs_disk_per_byte", unit: "bytes", rounds: []float64{float64(used) / float64(size)}}).print(os.Stdout)
	return b.searches(ctx, dir, entries)
}

// logNode is a node that ships.
type logNode struct {
	server  *receive.Server
	random  *rand.Rand
	session string
	batches int
}

// call makes a request.
func (n *logNode) call(path string, body []byte, answer any) error {
	w := httptest.NewRecorder()
	n.server.Serve(w, httptest.NewRequest(http.MethodPost, logs.PathSessions+path, bytes.NewReader(body)), "node-1")
	if w.Code != http.StatusOK {
		return fmt.Errorf("the store answers %d: %s", w.Code, w.Body)
	}
	return json.Unmarshal(w.Body.Bytes(), answer)
}

// fill ships all lines, and writes them to plain files, too. It returns how long the store took, and how many bytes the lines have.
func (n *logNode) fill(ctx context.Context, dir string, entries *store.Store) (taken time.Duration, size int64, err error) {
	var opened logs.Session
	if err := n.call("", nil, &opened); err != nil {
		return 0, 0, err
	}
	n.session = opened.ID
	w, at := logs.NewWriter(), time.Now().Add(-10*time.Hour)
	for pod := range logPods {
		plain, err := os.Create(filepath.Join(dir, fmt.Sprintf("web-%d.log", pod)))
		if err != nil {
			return 0, 0, err
		}
		out := bufio.NewWriterSize(plain, 1<<20)
		name := "web-" + strconv.Itoa(pod)
		source := logs.Source{Namespace: "shop", Pod: name, FileID: logs.FileID{UID: "uid-" + name, Container: "app", File: "1-2"}, Number: 1}
		offset := int64(0)
		for i := range logLines / logPods {
			message := n.line(pod*logLines/logPods + i)
			when := at.Add(time.Duration(i) * 10 * time.Hour / (logLines / logPods))
			end := offset + int64(len(message)) + 45 // with the runtime's format
			w.Add(source, &logs.Entry{Time: when.UnixNano(), Stream: logs.Stdout, Offset: offset, End: end, Message: message})
			offset, size = end, size+int64(len(message))+1
			_, _ = out.Write(append(message, '\n')) // Flush tells
			if w.Size() > logBatch {
				spent, err := n.send(ctx, w.Batch())
				if err != nil {
					return 0, 0, err
				}
				taken += spent
			}
		}
		if err := errors.Join(out.Flush(), plain.Close()); err != nil {
			return 0, 0, err
		}
	}
	spent, err := n.send(ctx, w.Batch())
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	err = entries.Sync()
	return taken + spent + time.Since(began), size, err
}

// send ships a batch.
func (n *logNode) send(ctx context.Context, batch []byte) (time.Duration, error) {
	n.batches++
	began := time.Now()
	var r logs.Receipt
	err := n.call(fmt.Sprintf("/%s/batches/%d", n.session, n.batches), batch, &r)
	return time.Since(began), errors.Join(err, ctx.Err())
}

// line is what a web server writes.
func (n *logNode) line(i int) []byte {
	if i%needleEvery == 0 {
		return fmt.Appendf(nil, "level=error msg=\"cannot reach the database: context %s\" request=%016x", needle, n.random.Uint64())
	}
	return fmt.Appendf(nil, "level=info method=GET path=/shop/cart/%d status=%d bytes=%d duration=%.3fms request=%016x", n.random.IntN(50_000),
		[]int{200, 200, 200, 304, 404}[n.random.IntN(5)], n.random.IntN(20_000), n.random.Float64()*100, n.random.Uint64())
}

// searches measures searches over all lines.
func (b *bench) searches(ctx context.Context, dir string, entries *store.Store) error {
	for _, s := range []struct{ name, query, pattern string }{
		{"logs_search_words", `"` + needle + `"`, needle},
		{"logs_search_regexp", `~"cart/123[0-9]* status=404"`, "cart/123[0-9]* status=404"},
	} {
		f := figure{name: s.name, unit: "ms"}
		for range b.rounds {
			began := time.Now()
			found, err := countEntries(ctx, entries, s.query)
			if err != nil {
				return err
			}
			f.add(time.Since(began))
			began = time.Now()
			grepped, err := grep(ctx, dir, s.pattern)
			if err != nil {
				return err
			}
			f.addPeer(time.Since(began))
			if found != grepped || found == 0 {
				return fmt.Errorf("the store finds %d lines with %q, and grep %d", found, s.pattern, grepped)
			}
		}
		f.print(os.Stdout)
	}
	return nil
}

func countEntries(ctx context.Context, entries *store.Store, query string) (n int, err error) {
	err = entries.Query(ctx, store.Pods, map[string]string{receive.FieldNamespace: "shop"}, query+" | stats count() as n", func(block store.Block) error {
		for _, text := range block.Column("n") {
			if n, err = strconv.Atoi(text); err != nil {
				return err
			}
		}
		return nil
	})
	return n, err
}

// grep counts lines in the plain files.
func grep(ctx context.Context, dir, pattern string) (n int, err error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil {
		return 0, err
	}
	out, err := exec.CommandContext(ctx, "grep", append([]string{"-c", "-h", "-e", pattern}, files...)...).Output()
	if err != nil {
		return 0, fmt.Errorf("cannot grep: %w", err)
	}
	for _, text := range strings.Fields(string(out)) {
		count, err := strconv.Atoi(text)
		if err != nil {
			return 0, err
		}
		n += count
	}
	return n, nil
}

// sizeOf returns the size of all files below a directory.
func sizeOf(dir string) (size int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			size += info.Size()
		}
		return err
	})
	return size, err
}
