package controlplane

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	tracingv1 "k8s.io/component-base/tracing/api/v1"

	"github.com/k8sm/k8sm/api"
)

// tracingFlag is kube-apiserver's.
const tracingFlag = "tracing-config-file"

func addTracingFlags(fs *pflag.FlagSet, t *api.Tracing) {
	fs.StringVar(&t.Endpoint, "otlp-endpoint", "", "`host:port` of a collector to which API server and kubelets send traces by OTLP over gRPC, without TLS. Each machine connects to it: "+
		"localhost:4317 is a collector on each. A minion reads it when it starts (default: no traces)")
	fs.Int32Var(&t.PerMillion, "otlp-sampling-rate-per-million", api.DefaultTracesPerMillion,
		"with --otlp-endpoint: how many of a million requests are traced, besides those that their callers trace")
}

// tracing is what both programs are told.
func (c Config) tracing() tracingv1.TracingConfiguration {
	t := c.Minions.Tracing
	return tracingv1.TracingConfiguration{Endpoint: &t.Endpoint, SamplingRatePerMillion: &t.PerMillion}
}

// checkTracing finds errors before anything starts.
func (c Config) checkTracing() error {
	t := c.Minions.Tracing
	if t.Endpoint == "" {
		return nil
	}
	var problem error
	if list := tracingv1.ValidateTracingConfiguration(&tracingv1.TracingConfiguration{Endpoint: &t.Endpoint}, nil, field.NewPath("tracing")); len(list) > 0 {
		problem = list.ToAggregate()
	}
	if _, port, err := net.SplitHostPort(t.Endpoint); problem == nil && !strings.HasPrefix(t.Endpoint, "unix:") && (err != nil || port == "") {
		problem = errors.New("it has no port")
	}
	if t.PerMillion < 0 || t.PerMillion > 1e6 {
		return fmt.Errorf("cannot use --otlp-sampling-rate-per-million=%d: give 0 to 1000000", t.PerMillion)
	}
	if problem != nil {
		return fmt.Errorf("cannot use --otlp-endpoint=%s: give HOST:PORT of a collector's OTLP over gRPC, such as localhost:4317: %w", t.Endpoint, problem)
	}
	return nil
}

// tracingFlags adds the flag of kube-apiserver.
func (c Config) tracingFlags(f flags) {
	if c.Minions.Tracing.Endpoint != "" {
		f[tracingFlag] = c.StateDir.TracingConfig()
	}
}

// writeTracing writes the file of that flag.
func (c Config) writeTracing() error {
	if c.Minions.Tracing.Endpoint == "" {
		return nil
	}
	data, err := json.MarshalIndent(apiserverv1.TracingConfiguration{
		TypeMeta:             metav1.TypeMeta{APIVersion: apiserverv1.SchemeGroupVersion.String(), Kind: "TracingConfiguration"},
		TracingConfiguration: c.tracing(),
	}, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot encode the API server's TracingConfiguration: %w", err)
	}
	return c.StateDir.WriteTracingConfig(append(data, '\n'))
}
