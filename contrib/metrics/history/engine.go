package history

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"
)

const (
	// maxSamples bounds the samples that a query has in memory at once. 1 million take about 16 MB.
	maxSamples = 5_000_000
	// maxQueries bounds how many queries run at once, those of rules included.
	maxQueries = 4
	// queryTimeout bounds the time of a query, waiting included.
	queryTimeout = 30 * time.Second
)

// tracker bounds how many queries run at once.
type tracker chan struct{}

// GetMaxConcurrent implements promql.QueryTracker.
func (t tracker) GetMaxConcurrent() int { return cap(t) }

// Insert implements promql.QueryTracker.
func (t tracker) Insert(ctx context.Context, _ string) (int, error) {
	select {
	case t <- struct{}{}:
		return 0, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// Delete implements promql.QueryTracker.
func (t tracker) Delete(int) { <-t }

// Close implements promql.QueryTracker.
func (t tracker) Close() error { return nil }

// storageErrors are what an engine's error has if the database cannot be read. It has no type for that.
var storageErrors = []string{"expanding series", "cannot populate chunk"}

// engine is Prometheus' engine, but an error of the database makes us look for damaged blocks.
type engine struct {
	promql.QueryEngine
	suspect func()
}

// NewInstantQuery implements promql.QueryEngine.
func (e engine) NewInstantQuery(ctx context.Context, q storage.Queryable, o promql.QueryOpts, text string, at time.Time) (promql.Query, error) {
	made, err := e.QueryEngine.NewInstantQuery(ctx, q, o, text, at)
	return query{made, e.suspect}, err
}

// NewRangeQuery implements promql.QueryEngine.
func (e engine) NewRangeQuery(ctx context.Context, q storage.Queryable, o promql.QueryOpts, text string, from, to time.Time, step time.Duration) (promql.Query, error) {
	made, err := e.QueryEngine.NewRangeQuery(ctx, q, o, text, from, to, step)
	return query{made, e.suspect}, err
}

// query is a query of an engine.
type query struct {
	promql.Query
	suspect func()
}

// Exec implements promql.Query.
func (q query) Exec(ctx context.Context) *promql.Result {
	result := q.Query.Exec(ctx)
	if err := result.Err; err != nil && ctx.Err() == nil && slices.ContainsFunc(storageErrors, func(text string) bool {
		return strings.Contains(err.Error(), text)
	}) {
		q.suspect()
	}
	return result
}
