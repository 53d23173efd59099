package history

import (
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/storage"
)

// refusingV2 is an AppenderV2 that refuses all.
type refusingV2 struct{ err error }

// Append implements storage.AppenderV2.
func (r refusingV2) Append(storage.SeriesRef, labels.Labels, int64, int64, float64, *histogram.Histogram, *histogram.FloatHistogram, storage.AOptions) (storage.SeriesRef, error) {
	return 0, r.err
}

// Commit implements storage.AppenderV2.
func (r refusingV2) Commit() error { return r.err }

// Rollback implements storage.AppenderV2.
func (r refusingV2) Rollback() error { return nil }

// refusing is an Appender that refuses all.
type refusing struct{ err error }

// SetOptions implements storage.Appender.
func (r refusing) SetOptions(*storage.AppendOptions) {}

// Append implements storage.Appender.
func (r refusing) Append(storage.SeriesRef, labels.Labels, int64, float64) (storage.SeriesRef, error) {
	return 0, r.err
}

// AppendExemplar implements storage.Appender.
func (r refusing) AppendExemplar(storage.SeriesRef, labels.Labels, exemplar.Exemplar) (storage.SeriesRef, error) {
	return 0, r.err
}

// AppendHistogram implements storage.Appender.
func (r refusing) AppendHistogram(storage.SeriesRef, labels.Labels, int64, *histogram.Histogram, *histogram.FloatHistogram) (storage.SeriesRef, error) {
	return 0, r.err
}

// AppendHistogramSTZeroSample implements storage.Appender.
func (r refusing) AppendHistogramSTZeroSample(storage.SeriesRef, labels.Labels, int64, int64, *histogram.Histogram, *histogram.FloatHistogram) (storage.SeriesRef, error) {
	return 0, r.err
}

// UpdateMetadata implements storage.Appender.
func (r refusing) UpdateMetadata(storage.SeriesRef, labels.Labels, metadata.Metadata) (storage.SeriesRef, error) {
	return 0, r.err
}

// AppendSTZeroSample implements storage.Appender.
func (r refusing) AppendSTZeroSample(storage.SeriesRef, labels.Labels, int64, int64) (storage.SeriesRef, error) {
	return 0, r.err
}

// Commit implements storage.Appender.
func (r refusing) Commit() error { return r.err }

// Rollback implements storage.Appender.
func (r refusing) Rollback() error { return nil }
