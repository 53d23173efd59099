package store

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/VictoriaMetrics/VictoriaLogs/app/vlselect"
)

// UIPath is where VictoriaLogs serves its user interface.
const UIPath = "/select/vmui/"

// selectPath is what the paths of VictoriaLogs' queries begin with.
const selectPath = "/select/logsql/"

// queries are VictoriaLogs' paths that answer a query (https://docs.victoriametrics.com/victorialogs/querying/#http-api).
var queries = []string{
	"query", "tail", "hits", "facets", "field_names", "field_values", "stream_field_names", "stream_field_values", "streams", "stream_ids",
	"stats_query", "stats_query_range", "query_time_range",
}

// parameters are those of these paths that say nothing of whose entries are read.
var parameters = []string{
	"query", "start", "end", "time", "limit", "offset", "step", "field", "fields_limit", "filter", "timeout", "format", "ignore_pipes",
	"keep_const_fields", "max_values_per_field", "max_value_len", "refresh_interval", "start_offset",
}

// Select answers a request of VictoriaLogs' HTTP API in a tenant. A stream has to match the labels, in the query and in all queries within
// it. Of the request, only the path, the method and these parameters count. A path that changes something, or is not of queries, is not
// found.
func (s *Store) Select(w http.ResponseWriter, r *http.Request, path string, tenant Tenant, labels map[string]string) {
	inner := (&http.Request{
		Method: http.MethodGet, URL: &url.URL{Path: path}, Header: http.Header{}, Body: http.NoBody, Host: r.Host, RemoteAddr: r.RemoteAddr,
		RequestURI: path,
	}).WithContext(r.Context())
	if strings.HasPrefix(path, UIPath) {
		vlselect.RequestHandler(&plain{ResponseWriter: w}, inner)
		return
	}
	name, ok := strings.CutPrefix(path, selectPath)
	if !ok || !slices.Contains(queries, name) {
		http.Error(w, "there is no such path: give one of "+selectPath+strings.Join(queries, ", "+selectPath), http.StatusNotFound)
		return
	}
	values, err := given(w, r)
	if err != nil {
		http.Error(w, "cannot read the parameters: "+err.Error(), http.StatusBadRequest)
		return
	}
	if len(labels) > 0 {
		text, err := json.Marshal(labels)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		values.Set("extra_stream_filters", string(text))
	}
	inner.URL.RawQuery = values.Encode()
	id := tenant.id()
	inner.Header.Set("AccountID", strconv.FormatUint(uint64(id.AccountID), 10))
	inner.Header.Set("ProjectID", strconv.FormatUint(uint64(id.ProjectID), 10))
	ctx, ended := s.running.begin(inner.Context())
	defer ended()
	vlselect.RequestHandler(&plain{ResponseWriter: w}, inner.WithContext(ctx))
	if errors.Is(context.Cause(ctx), ErrMemory) && r.Context().Err() == nil {
		_, _ = io.WriteString(w, "\n"+ErrMemory.Error()+"\n") // an answer may have begun
	}
}

// maxForm bounds the body of a query, in bytes.
const maxForm = 1 << 20

// given returns the request's parameters that Select passes on. Each may be there once, but for field.
func given(w http.ResponseWriter, r *http.Request) (url.Values, error) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		return nil, err
	}
	values := url.Values{}
	for _, name := range parameters {
		found := r.Form[name]
		if len(found) > 1 && name != "field" {
			return nil, &repeated{name}
		}
		if len(found) > 0 {
			values[name] = found
		}
	}
	return values, nil
}

// repeated says that a parameter is there more than once.
type repeated struct{ name string }

// Error implements error.
func (r *repeated) Error() string { return strconv.Quote(r.name) + " is there more than once" }

// plain leaves out headers that let scripts of other sites read an answer, and those that tell of tenants.
type plain struct {
	http.ResponseWriter
	begun bool
}

func (p *plain) begin() {
	if p.begun {
		return
	}
	p.begun = true
	for name := range p.Header() {
		if strings.HasPrefix(name, "Access-Control-") || strings.EqualFold(name, "AccountID") || strings.EqualFold(name, "ProjectID") {
			p.Header().Del(name)
		}
	}
}

// WriteHeader implements http.ResponseWriter.
func (p *plain) WriteHeader(code int) {
	p.begin()
	p.ResponseWriter.WriteHeader(code)
}

// Write implements http.ResponseWriter.
func (p *plain) Write(part []byte) (int, error) {
	p.begin()
	return p.ResponseWriter.Write(part)
}

// Flush implements http.Flusher, which VictoriaLogs needs to tail.
func (p *plain) Flush() {
	p.begin()
	if f, ok := p.ResponseWriter.(http.Flusher); ok {
		f.Flush()
	}
}
