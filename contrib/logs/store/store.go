package store

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/VictoriaLogs/app/vlinsert"
	"github.com/VictoriaMetrics/VictoriaLogs/app/vlselect"
	"github.com/VictoriaMetrics/VictoriaLogs/app/vlstorage"
	"github.com/VictoriaMetrics/VictoriaLogs/lib/logstorage"
	"github.com/VictoriaMetrics/VictoriaMetrics/lib/logger"
	"github.com/gofrs/flock"
	"github.com/sirupsen/logrus"

	_ "github.com/k8sm/k8sm/contrib/logs/store/version" // one process has VictoriaMetrics and CoreDNS
)

// Config configures the store.
type Config struct {
	// Dir is the store's directory, which Open makes. No two processes can have the same.
	Dir string
	// Retention is how long entries are kept, at least a day.
	Retention time.Duration
	// MaxSize is how many bytes of disk entries may take; 0 means any number. The oldest days go first, and the last two stay.
	MaxSize int64
	// MinFree is how many bytes of the disk have to be free. Add refuses entries with ErrFull otherwise.
	MinFree int64
	// Memory is how many bytes of memory caches and queries may take.
	Memory int64
	// QueryMemory is how many bytes the process may take while queries run. All of them end when it takes more: VictoriaLogs does not
	// bound what each takes. 0 means any number.
	QueryMemory int64
}

// queriesAtOnce is how many queries run at a time, besides those of Select.
const queriesAtOnce = 4

// future is how far ahead of this machine's clock entries may be.
const future = 48 * time.Hour

// Store keeps log entries. Its methods may be used concurrently.
type Store struct {
	cfg  Config
	lock *flock.Flock

	turns   chan struct{} // for each query that runs
	running running
	// ingesting says that StartIngest was called.
	ingesting bool

	// writing excludes Add while Sync runs.
	writing sync.RWMutex
	// days are those with entries that Sync has not yet written, as days since 1970.
	days sync.Map
	// streams is how many streams there were when Sync last ran.
	streams atomic.Uint64
}

// opened guards against a second store: VictoriaLogs keeps it in global variables.
var opened atomic.Bool

// ErrFull says that the disk is full.
var ErrFull = errors.New("the log store's disk is full")

// VictoriaLogs fixes GOMAXPROCS in every command of km when it starts, so that the number of processors cannot change any more.
func init() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.SetDefaultGOMAXPROCS()
	}
}

// Open opens the store. A process has at most one at a time. A day that cannot be read is moved to the directory "damaged" and logged.
func Open(cfg Config) (*Store, error) {
	if !opened.CompareAndSwap(false, true) {
		return nil, errors.New("cannot open a second log store in a process")
	}
	runtime.GOMAXPROCS(runtime.GOMAXPROCS(0)) // VictoriaLogs has a buffer for each processor
	s, err := open(cfg)
	if err != nil {
		opened.Store(false)
		return nil, err
	}
	return s, nil
}

func open(cfg Config) (*Store, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the directory of the log store: %w", err)
	}
	lock := flock.New(filepath.Join(cfg.Dir, "store.lock"))
	switch held, err := lock.TryLock(); {
	case err != nil:
		return nil, fmt.Errorf("cannot lock the directory of the log store: %w", err)
	case !held:
		return nil, fmt.Errorf("cannot open the log store in %s: another process has it; stop that first", cfg.Dir)
	}
	s := &Store{running: running{limit: uint64(max(cfg.QueryMemory, 0))}, cfg: cfg, lock: lock, turns: make(chan struct{}, queriesAtOnce)}
	if err := s.start(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return s, nil
}

// start sets VictoriaLogs' flags, which are its only settings, and starts it.
func (s *Store) start() error {
	for name, value := range map[string]string{
		"storageDataPath":                  s.data(),
		"retentionPeriod":                  strconv.FormatInt(int64(s.cfg.Retention/time.Second), 10) + "s",
		"retention.maxDiskSpaceUsageBytes": strconv.FormatInt(s.cfg.MaxSize, 10),
		"storage.minFreeDiskSpaceBytes":    strconv.FormatInt(s.cfg.MinFree, 10),
		"memory.allowedBytes":              strconv.FormatInt(s.cfg.Memory, 10),
		"futureRetention":                  strconv.FormatInt(int64(future/time.Second), 10) + "s",
		"inmemoryDataFlushInterval":        "5s", // Sync writes before
		"loggerLevel":                      "WARN",
		"loggerDisableTimestamps":          "true",
	} {
		if err := flag.Set(name, value); err != nil {
			return fmt.Errorf("cannot set up VictoriaLogs: -%s=%s: %w", name, value, err)
		}
	}
	if !flag.Parsed() { // km's commands parse their flags themselves
		if err := flag.CommandLine.Parse(nil); err != nil {
			return fmt.Errorf("cannot set up VictoriaLogs: %w", err)
		}
	}
	logger.SetOutputForTests(&victoriaLog{damage: s.noteDamage})
	if err := s.moveDamaged(); err != nil {
		return err
	}
	waiting, err := s.hidePartitions()
	if err != nil {
		return err
	}
	vlstorage.Init()
	for _, name := range waiting {
		if err := s.attach(name); err != nil {
			vlstorage.Stop()
			return err
		}
	}
	vlselect.Init()
	return nil
}

// data is VictoriaLogs' own directory.
func (s *Store) data() string { return filepath.Join(s.cfg.Dir, "data") }

// Close writes everything to disk and closes the store. Nothing may use it any more.
func (s *Store) Close() error {
	if s.ingesting {
		vlinsert.Stop()
	}
	vlselect.Stop()
	vlstorage.Stop()
	opened.Store(false)
	return s.lock.Close()
}

// internal calls a function of VictoriaLogs that it has by HTTP only, and returns the answer.
func internal(path string, parameters url.Values) ([]byte, error) {
	request, err := http.NewRequest(http.MethodPost, path, strings.NewReader(parameters.Encode()))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	answer := answer{code: http.StatusOK}
	vlstorage.RequestHandler(&answer, request)
	if answer.code >= http.StatusBadRequest {
		return nil, errors.New(strings.TrimSpace(answer.body.String()))
	}
	return answer.body.Bytes(), nil
}

// answer keeps an answer.
type answer struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

// Header implements http.ResponseWriter.
func (a *answer) Header() http.Header {
	if a.header == nil {
		a.header = http.Header{}
	}
	return a.header
}

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(code int) { a.code = code }

// Write implements http.ResponseWriter.
func (a *answer) Write(part []byte) (int, error) { return a.body.Write(part) }

// victoriaLog passes VictoriaLogs' log on.
type victoriaLog struct{ damage func(text string) }

// Write implements io.Writer. Each call has one message.
func (v *victoriaLog) Write(line []byte) (int, error) {
	level, text := parseMessage(line)
	log := logrus.WithField("part", "VictoriaLogs")
	switch level {
	case "panic", "fatal":
		v.damage(text)
		log.Error(text)
	case "warn":
		log.Warn(text)
	default:
		log.Error(text)
	}
	return len(line), nil
}

// Tenant is a part of the store. No query reads two of them.
type Tenant uint32

// Tenants.
const (
	Pods       Tenant = 0 // what containers write; each entry has a namespace
	Components Tenant = 1 // what the cluster itself writes
	Frameworks Tenant = 2 // what tasks of other Mesos frameworks send
)

func (t Tenant) id() logstorage.TenantID { return logstorage.TenantID{ProjectID: uint32(t)} }
