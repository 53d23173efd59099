package store

import (
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/VictoriaMetrics/VictoriaLogs/app/vlinsert"
	"github.com/VictoriaMetrics/VictoriaLogs/app/vlinsert/insertutil"
	"github.com/VictoriaMetrics/VictoriaLogs/app/vlstorage"
	"github.com/VictoriaMetrics/VictoriaLogs/lib/logstorage"
	"github.com/sirupsen/logrus"
)

// ingestPaths are what the paths begin with by which others send entries: Loki's push API, OTLP by HTTP, Elasticsearch's bulk API and lines
// of JSON (https://docs.victoriametrics.com/victorialogs/data-ingestion/).
var ingestPaths = []string{"/insert/loki/", "/insert/opentelemetry/", "/insert/elasticsearch/", "/insert/jsonline"}

// StartIngest makes Ingest work, and takes syslog messages at an address, by TCP and UDP, if that is not empty. All go to the tenant
// Frameworks. Close ends it.
func (s *Store) StartIngest(syslog string) error {
	if syslog != "" {
		if err := free(syslog); err != nil { // VictoriaLogs would end the process
			return err
		}
		tenant := fmt.Sprintf("0:%d", Frameworks)
		for name, value := range map[string]string{
			"syslog.listenAddr.tcp": syslog, "syslog.listenAddr.udp": syslog, "syslog.tenantID.tcp": tenant, "syslog.tenantID.udp": tenant,
			"syslog.useRemoteIP.tcp": "true", "syslog.useRemoteIP.udp": "true",
		} {
			if err := flag.Set(name, value); err != nil {
				return fmt.Errorf("cannot set up VictoriaLogs: -%s=%s: %w", name, value, err)
			}
		}
	}
	insertutil.SetLogRowsStorage(&ingested{s})
	vlinsert.Init()
	s.ingesting = true
	return nil
}

// free checks that nobody listens at an address.
func free(address string) error {
	tcp, err := net.Listen("tcp", address)
	if err == nil {
		err = tcp.Close()
	}
	if err == nil {
		var udp net.PacketConn
		if udp, err = net.ListenPacket("udp", address); err == nil {
			err = udp.Close()
		}
	}
	if err != nil {
		return fmt.Errorf("cannot take syslog messages at %s: %w", address, err)
	}
	return nil
}

// Ingest takes entries of others, into the tenant Frameworks. StartIngest was called.
func (s *Store) Ingest(w http.ResponseWriter, r *http.Request) {
	known := false
	for _, path := range ingestPaths {
		known = known || strings.HasPrefix(r.URL.Path, path)
	}
	if !known {
		http.Error(w, "there is no such path: give one that begins with "+strings.Join(ingestPaths, ", "), http.StatusNotFound)
		return
	}
	inner := r.Clone(r.Context())
	inner.URL = &url.URL{Path: r.URL.Path, RawQuery: r.URL.RawQuery}
	id := Frameworks.id()
	inner.Header.Set("AccountID", strconv.FormatUint(uint64(id.AccountID), 10))
	inner.Header.Set("ProjectID", strconv.FormatUint(uint64(id.ProjectID), 10))
	if !vlinsert.RequestHandler(&plain{ResponseWriter: w}, inner) {
		http.Error(w, "there is no such path", http.StatusNotFound)
	}
}

// ingested is where VictoriaLogs puts entries of others.
type ingested struct{ store *Store }

// CanWriteData implements insertutil.LogRowsStorage.
func (*ingested) CanWriteData() error { return (&vlstorage.Storage{}).CanWriteData() }

// MustAddRows implements insertutil.LogRowsStorage. Entries of another tenant would be an error of ours, and are dropped.
func (i *ingested) MustAddRows(rows *logstorage.LogRows) {
	i.store.writing.RLock()
	defer i.store.writing.RUnlock()
	own := Frameworks.id()
	foreign := false
	rows.ForEachRow(func(_ uint64, r *logstorage.InsertRow) {
		foreign = foreign || r.TenantID != own
		i.store.days.Store(r.Timestamp/int64(24*time.Hour), true)
	})
	if foreign {
		logrus.Error("somebody sends entries for another part of the log store: dropping them")
		return
	}
	(&vlstorage.Storage{}).MustAddRows(rows)
}
