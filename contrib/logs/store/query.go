package store

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/VictoriaMetrics/VictoriaLogs/app/vlstorage"
	"github.com/VictoriaMetrics/VictoriaLogs/lib/logstorage"
)

// Block is a part of a query's answer: rows that have the same columns.
type Block struct{ data *logstorage.DataBlock }

// Len returns how many rows the block has.
func (b Block) Len() int { return b.data.RowsCount() }

// Column returns the values of a field, one for each row, or nil if no row has it. They are valid during the call only.
func (b Block) Column(name string) []string {
	if c := b.data.GetColumnByName(name); c != nil {
		return c.Values
	}
	return nil
}

// Columns calls yield with each field.
func (b Block) Columns(yield func(name string, values []string) bool) {
	for _, c := range b.data.GetColumns(false) {
		if !yield(c.Name, c.Values) {
			return
		}
	}
}

// Query runs a LogsQL query in a tenant, and calls each with the blocks of its answer, one after the other. A stream has to match the
// labels, in the query and in all queries within it.
func (s *Store) Query(ctx context.Context, tenant Tenant, labels map[string]string, query string, each func(Block) error) error {
	q, err := logstorage.ParseQueryAtTimestamp(query, time.Now().UnixNano())
	if err != nil {
		return fmt.Errorf("cannot understand the query: %w", err)
	}
	if len(labels) > 0 {
		filter, err := logstorage.ParseFilter(streamFilter(labels))
		if err != nil {
			return fmt.Errorf("cannot restrict the query: %w", err)
		}
		q.AddExtraFilters(filter)
	}
	select {
	case s.turns <- struct{}{}:
		defer func() { <-s.turns }()
	case <-ctx.Done():
		return ctx.Err()
	}
	ctx, ended := s.running.begin(ctx)
	defer ended()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var mu sync.Mutex // guards each and failed
	var failed error
	write := func(_ uint, data *logstorage.DataBlock) {
		mu.Lock()
		defer mu.Unlock()
		if failed == nil {
			if failed = each(Block{data}); failed != nil {
				cancel(failed)
			}
		}
	}
	var stats logstorage.QueryStats
	err = vlstorage.RunQuery(logstorage.NewQueryContext(ctx, &stats, []logstorage.TenantID{tenant.id()}, q, false, nil), write)
	vlstorage.UpdatePerQueryStatsMetrics(&stats)
	switch {
	case failed != nil:
		return failed
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return fmt.Errorf("cannot run the query: %w", err)
	}
	return nil
}

// streamFilter returns a filter of LogsQL by the labels of streams.
func streamFilter(labels map[string]string) string {
	var parts []string
	for name, value := range labels {
		parts = append(parts, Quote(name)+"="+Quote(value))
	}
	return "{" + strings.Join(parts, ",") + "}"
}

// Quote quotes a string for LogsQL.
func Quote(text string) string { return strconv.Quote(text) }
