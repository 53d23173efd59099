package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/VictoriaMetrics/VictoriaLogs/app/vlstorage"
	"github.com/VictoriaMetrics/VictoriaLogs/lib/logstorage"
	"github.com/VictoriaMetrics/metrics"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Field is a field of an entry. The message's name is Message.
type Field = logstorage.Field

// Message is the name of the field with the message, and Time that of the field with an entry's time if the store does not keep such a time.
const (
	Message = "_msg"
	Time    = "time"
)

// Entry is what Add stores.
type Entry struct {
	Tenant Tenant
	// Time is in nanoseconds since 1970. An entry of a time that the store does not keep gets the nearest time that it keeps, and the field
	// Time with its own.
	Time int64
	// Fields are the fields. Names have at most MaxName bytes and do not begin with "_", but for Message.
	Fields []Field
	// Stream is how many of the first fields name the stream. Entries of a stream are stored together.
	Stream int
}

// MaxName is the longest name of a field, in bytes. An entry with all its names and values has less than 2 MiB.
const MaxName = 128

// margin is how long an entry at the edge of the retention stays.
const margin = time.Hour

// Add stores entries. When it returns they are found by queries, but may be lost until Sync has returned. The error is ErrFull if the disk
// is full; nothing was stored then. Add keeps nothing of the entries.
func (s *Store) Add(entries []Entry) error {
	s.writing.RLock()
	defer s.writing.RUnlock()
	if err := s.Writable(); err != nil {
		return err
	}
	rows := logstorage.GetLogRows(nil, nil, nil, nil, "")
	defer logstorage.PutLogRows(rows)
	now := time.Now()
	first, last := now.Add(-s.cfg.Retention+margin).UnixNano(), now.Add(future-margin).UnixNano()
	for i := range entries {
		e := &entries[i]
		at := min(max(e.Time, first), last)
		s.days.Store(at/int64(24*time.Hour), true)
		fields := e.Fields
		if at != e.Time {
			fields = append(slices.Clip(fields), Field{Name: Time, Value: strconv.FormatInt(e.Time, 10)})
		}
		rows.MustAdd(e.Tenant.id(), at, fields, e.Stream)
		if rows.NeedFlush() {
			(&vlstorage.Storage{}).MustAddRows(rows)
			rows.ResetKeepSettings()
		}
	}
	(&vlstorage.Storage{}).MustAddRows(rows)
	return nil
}

// Writable returns ErrFull if Add would.
func (s *Store) Writable() error {
	if err := (&vlstorage.Storage{}).CanWriteData(); err != nil {
		return fmt.Errorf("%w: less than %d bytes are free", ErrFull, s.cfg.MinFree)
	}
	return nil
}

// Sync returns when all that was added before is on disk and would survive a power failure. Add waits until then. It writes VictoriaLogs'
// buffers by snapshots, which write all but what is just being merged, until nothing is left.
func (s *Store) Sync() error {
	s.writing.Lock()
	defer s.writing.Unlock()
	var days []int64
	s.days.Range(func(day, _ any) bool {
		days = append(days, day.(int64))
		return true
	})
	if len(days) == 0 {
		return nil
	}
	if _, err := internal("/internal/force_flush", nil); err != nil {
		return fmt.Errorf("cannot make the log store write: %w", err)
	}
	before, err := readState()
	if err != nil {
		return err
	}
	streams := uint64(before.streams)
	for again := streams != s.streams.Load(); ; again = false {
		for _, day := range days {
			if err := writeDay(time.Unix(0, day*int64(24*time.Hour)).UTC().Format("20060102")); err != nil {
				return err
			}
		}
		state, err := readState()
		if err != nil {
			return err
		}
		// A new stream is in the index, of which VictoriaLogs does not tell what is in memory only. Without merges, that is nothing
		// the second time.
		if state.unwritten == 0 && state.merges == 0 && !again {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	s.streams.Store(streams)
	for _, day := range days {
		s.days.Delete(day)
	}
	return nil
}

// writeDay writes what VictoriaLogs has of a day in memory.
func writeDay(name string) error {
	text, err := internal("/internal/partition/snapshot/create", url.Values{"partition_prefix": {name}})
	if err != nil {
		return fmt.Errorf("cannot make the log store write: %w", err)
	}
	var made []string
	if err := json.Unmarshal(text, &made); err != nil {
		return fmt.Errorf("cannot read what the log store wrote: %w", err)
	}
	for _, path := range made {
		if _, err := internal("/internal/partition/snapshot/delete", url.Values{"path": {path}}); err != nil {
			return fmt.Errorf("cannot remove a snapshot of the log store: %w", err)
		}
	}
	return nil
}

// state is what VictoriaLogs tells of its memory, in its metrics.
type state struct{ unwritten, merges, streams float64 }

func readState() (s state, err error) {
	var text bytes.Buffer
	metrics.WritePrometheus(&text, false)
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(&text)
	if err != nil {
		return state{}, fmt.Errorf("cannot read the metrics of the log store: %w", err)
	}
	for name, to := range map[string]struct {
		value *float64
		types []string
	}{
		"vl_storage_rows":          {&s.unwritten, []string{"storage/inmemory"}},
		"vl_pending_rows":          {&s.unwritten, []string{"storage", "indexdb"}},
		"vl_active_merges":         {&s.merges, []string{"storage/inmemory", "indexdb/inmemory"}},
		"vl_streams_created_total": {&s.streams, []string{""}},
	} {
		found := 0
		for _, m := range families[name].GetMetric() {
			kind := ""
			for _, label := range m.GetLabel() {
				kind = label.GetValue()
			}
			for _, t := range to.types {
				if t == kind {
					*to.value += m.GetGauge().GetValue() + m.GetCounter().GetValue() + m.GetUntyped().GetValue()
					found++
				}
			}
		}
		if found != len(to.types) {
			return state{}, errors.New("cannot find " + name + " among the metrics of the log store")
		}
	}
	return s, nil
}

// WriteMetrics serves VictoriaLogs' metrics in Prometheus' format.
func (s *Store) WriteMetrics(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	metrics.WritePrometheus(w, false)
}
