package e2e

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"

	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// traceCollector counts the spans that programs send to it, by the programs' names.
type traceCollector struct {
	collector.UnimplementedTraceServiceServer
	address string

	mu    sync.Mutex // guards spans
	spans map[string]int
}

// collectTraces listens until the test ends.
func collectTraces(t *testing.T) *traceCollector {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &traceCollector{address: listener.Addr().String(), spans: map[string]int{}}
	server := grpc.NewServer()
	collector.RegisterTraceServiceServer(server, c)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return c
}

// Export implements collector.TraceServiceServer.
func (c *traceCollector) Export(_ context.Context, r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, of := range r.GetResourceSpans() {
		name := ""
		for _, attribute := range of.GetResource().GetAttributes() {
			if attribute.GetKey() == "service.name" {
				name = attribute.GetValue().GetStringValue()
			}
		}
		for _, scope := range of.GetScopeSpans() {
			c.spans[name] += len(scope.GetSpans())
		}
	}
	return new(collector.ExportTraceServiceResponse), nil
}

// tracesArrive waits until API server and kubelet have sent spans.
func tracesArrive(t *testing.T, c *traceCollector) {
	err := scratch.Until(t.Context(), time.Minute, func(context.Context) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.spans["apiserver"] == 0 || c.spans["kubelet"] == 0 {
			return fmt.Errorf("spans have come from %v", c.spans)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
