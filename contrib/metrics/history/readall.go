package history

import (
	"context"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/index"
)

// readAll reads all series and chunks of a block. The readers check the sums.
func readAll(ctx context.Context, series tsdb.IndexReader, data tsdb.ChunkReader) error {
	name, value := index.AllPostingsKey()
	postings, err := series.Postings(ctx, name, value)
	if err != nil {
		return err
	}
	var builder labels.ScratchBuilder
	var metas []chunks.Meta
	for postings.Next() && ctx.Err() == nil {
		if err := series.Series(postings.At(), &builder, &metas); err != nil {
			return err
		}
		for _, meta := range metas {
			if _, _, err := data.ChunkOrIterable(meta); err != nil {
				return err
			}
		}
	}
	return postings.Err()
}
