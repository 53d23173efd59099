package metrics

import (
	"context"
	"errors"
	"fmt"
	"time"

	prometheus "github.com/prometheus/client_golang/api"
	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"
	"k8s.io/client-go/rest"
)

// queryTimeout bounds a query; API servers end it a little later.
const queryTimeout = time.Minute

// Query asks the cluster's API server for the value of a PromQL expression at a time
// (https://prometheus.io/docs/prometheus/latest/querying/basics/). Warnings say what is wrong with the expression or the data.
func Query(ctx context.Context, config *rest.Config, expression string, at time.Time) (value model.Value, warnings []string, err error) {
	config = rest.CopyConfig(config)
	config.Timeout = queryTimeout
	transport, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot create a client for the API server: %w", err)
	}
	client, err := prometheus.NewClient(prometheus.Config{Address: config.Host + HistoryPath, Client: transport})
	if err != nil {
		return nil, nil, fmt.Errorf("cannot create a client for stored metrics: %w", err)
	}
	value, said, err := v1.NewAPI(client).Query(ctx, expression, at)
	var answer *v1.Error
	if errors.As(err, &answer) && answer.Type == v1.ErrBadData {
		return nil, nil, fmt.Errorf("cannot evaluate %q: %s", expression, answer.Msg)
	}
	if errors.As(err, &answer) {
		return nil, nil, fmt.Errorf("cannot query metrics: %s %s", answer.Msg, answer.Detail)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("cannot query metrics: %w", err)
	}
	return value, said, nil
}
