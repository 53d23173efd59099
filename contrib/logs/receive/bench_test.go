package receive

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/k8sm/k8sm/api/logs"
	"github.com/k8sm/k8sm/contrib/logs/store"
)

// A batch of lines of 200 bytes, from the request to the store's buffers.
func BenchmarkBatchOf4000Lines(b *testing.B) {
	entries, err := store.Open(store.Config{Dir: b.TempDir(), Retention: 7 * 24 * time.Hour, MinFree: 1 << 20, Memory: 128 << 20})
	if err != nil {
		b.Fatal(err)
	}
	defer entries.Close()
	s := New(entries, onNode{}, 0)
	const lines = 4000
	text := strings.Repeat("GET /shop/cart?item=4711 \"HTTP/1.1\" 200 ", 5)[:190]
	var batches [][]byte
	w, at := logs.NewWriter(), time.Now().UnixNano()
	for range b.N {
		for i := range int64(lines) {
			at += 1000
			e := logs.Entry{Time: at, Stream: logs.Stdout, Offset: at, End: at + 1, Message: fmt.Appendf(nil, "%s%010d", text, at*i%1e10)}
			w.Add(source("web"), &e)
		}
		batches = append(batches, w.Batch())
	}
	open := httptest.NewRecorder()
	s.Serve(open, httptest.NewRequest(http.MethodPost, logs.PathSessions, nil), "a")
	var session logs.Session
	if err := json.Unmarshal(open.Body.Bytes(), &session); err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	for i, batch := range batches {
		r := httptest.NewRequest(http.MethodPost, fmt.Sprintf("%s/%s/batches/%d", logs.PathSessions, session.ID, i+1), bytes.NewReader(batch))
		answer := httptest.NewRecorder()
		if s.Serve(answer, r, "a"); answer.Code != http.StatusOK {
			b.Fatal(answer.Body)
		}
	}
	if err := entries.Sync(); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N*lines)/b.Elapsed().Seconds(), "lines/s")
}
