package logs

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/k8sm/k8sm/api/connlimit"
	"github.com/k8sm/k8sm/contrib/logs/store"
)

// maxIngest bounds a request of others, in bytes.
const maxIngest = 64 << 20

// listenForOthers returns a function that takes logs of tasks of other frameworks until ctx ends.
func (c Config) listenForOthers(entries *store.Store, in *inside) (run func(context.Context) error, err error) {
	nothing := func(context.Context) error { return nil }
	if c.IngestAddress == "" && c.SyslogAddress == "" {
		return nothing, nil
	}
	if err := entries.StartIngest(c.SyslogAddress); err != nil || c.IngestAddress == "" {
		return nothing, err
	}
	listener, err := net.Listen("tcp", c.IngestAddress)
	if err != nil {
		return nil, fmt.Errorf("cannot take logs at --ingest-address=%s: %w", c.IngestAddress, err)
	}
	server := &http.Server{
		Handler: connlimit.Requests(in.guard(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, maxIngest)
			entries.Ingest(w, r)
		}))),
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: time.Minute, IdleTimeout: 2 * time.Minute,
	}
	return func(ctx context.Context) error {
		stop := context.AfterFunc(ctx, func() { server.Close() })
		defer stop()
		if err := server.Serve(connlimit.Listener(listener, 1024, 128)); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("cannot take logs at --ingest-address=%s any more: %w", c.IngestAddress, err)
		}
		return nil
	}, nil
}
