package history

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/units"
	"github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	prom "github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/discovery"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/sirupsen/logrus"

	// What a file of scrape configurations may discover targets by.
	_ "github.com/prometheus/prometheus/discovery/dns"
	_ "github.com/prometheus/prometheus/discovery/file"
	_ "github.com/prometheus/prometheus/discovery/http"
	_ "github.com/prometheus/prometheus/discovery/kubernetes"
)

const (
	// DefaultRetention is how long samples are kept.
	DefaultRetention = 15 * 24 * time.Hour
	// DefaultMaxSize bounds the size of the history on disk, in bytes.
	DefaultMaxSize = 1 << 30
	// DefaultMinFree is how much the disk must have free, in bytes, for samples to be kept.
	DefaultMinFree = 64 << 20
	// DefaultMaxSeries bounds the series that have samples of the last hours. One takes about 2 KB of memory.
	DefaultMaxSeries = 500_000
	// DefaultInterval is how often targets are scraped and rules evaluated.
	DefaultInterval = 30 * time.Second

	// minRetention is the length of the shortest block: what is younger is not in a block yet.
	minRetention = 2 * time.Hour
	// minSize is enough for the write-ahead log of a small cluster.
	minSize = 32 << 20
)

// The limits of a target. A job may have its own.
const (
	bodyLimit       = 16 << 20
	sampleLimit     = 50_000
	targetLimit     = 5_000
	labelLimit      = 64
	labelNameLimit  = 256
	labelValueLimit = 4096
	scrapeTimeout   = 10 * time.Second
	keepDropped     = 100
)

// Config configures a History. The zero value of a number takes its default.
type Config struct {
	// Dir has the history. It is created, and belongs to this process alone.
	Dir string
	// Retention is how long samples are kept, at least 2 hours.
	Retention time.Duration
	// MaxSize bounds the blocks, in bytes, at least 32 MiB. The oldest go first. Negative: no bound.
	MaxSize int64
	// MinFree is how much Dir's file system must have free, in bytes, for samples to be kept.
	MinFree int64
	// MaxSeries bounds the series with samples of the last hours. More are refused.
	MaxSeries int
	// Interval is how often targets are scraped and rules evaluated.
	Interval time.Duration
	// Jobs are what is scraped.
	Jobs []Job
	// ScrapeConfigFile is a file with further scrape_configs, in Prometheus' format, or "". Changes are picked up.
	ScrapeConfigFile string
	// RulesDir is a directory of rule files, *.yaml and *.yml, or "". Changes are picked up.
	RulesDir string
	// DefaultRules has rule files at its root, or is nil.
	DefaultRules fs.FS
	// Alertmanagers are the URLs of those that get all alerts.
	Alertmanagers []string
	// ExternalLabels are added to alerts.
	ExternalLabels map[string]string
	// ExternalURL is where users reach the API, for links in alerts.
	ExternalURL string
	// Log is where all goes that an operator would tell. Nil: the standard logger.
	Log *logrus.Entry
}

// Job is what is scraped in one way.
type Job struct {
	// ScrapeConfig is as prom.Load makes it, or prom.DefaultScrapeConfig with a name. Zero values take defaults, limits included. It should
	// follow no redirects: they could lead into networks that only this process reaches, with the job's credentials.
	prom.ScrapeConfig
	// Targets tells the targets, beside those of ScrapeConfig.ServiceDiscoveryConfigs. Nil: none.
	Targets discovery.Discoverer
}

// TargetFunc is a Discoverer that is a function. It runs until ctx ends and sends groups that are new, have changed or, without targets,
// are gone. A group is known by its Source.
type TargetFunc func(ctx context.Context, groups chan<- []*targetgroup.Group)

// Run implements discovery.Discoverer.
func (f TargetFunc) Run(ctx context.Context, groups chan<- []*targetgroup.Group) { f(ctx, groups) }

// withDefaults returns the configuration with defaults.
func (c Config) withDefaults() Config {
	c.Retention, c.Interval = cmp.Or(c.Retention, DefaultRetention), cmp.Or(c.Interval, DefaultInterval)
	c.MaxSize, c.MinFree = cmp.Or(c.MaxSize, DefaultMaxSize), cmp.Or(c.MinFree, DefaultMinFree)
	c.MaxSeries = cmp.Or(c.MaxSeries, DefaultMaxSeries)
	if c.Log == nil {
		c.Log = logrus.NewEntry(logrus.StandardLogger())
	}
	return c
}

// Validate checks the settings, and the file of scrape configurations. Rule files are not checked: a wrong one stops nothing.
func (c Config) Validate() error {
	_, _, err := c.withDefaults().build()
	return err
}

// validate checks the values, which have defaults.
func (c Config) validate() error {
	if c.Dir == "" {
		return errors.New("cannot keep metrics: no directory is given")
	}
	if c.Retention < minRetention {
		return fmt.Errorf("cannot keep metrics for %s only: give at least %s", c.Retention, minRetention)
	}
	if c.MaxSize >= 0 && c.MaxSize < minSize {
		return fmt.Errorf("cannot keep metrics in %d bytes: give at least %d MiB", c.MaxSize, minSize>>20)
	}
	if c.MinFree < 0 || c.MaxSeries < 0 {
		return errors.New("cannot keep metrics: a limit is negative")
	}
	if c.Interval < time.Second {
		return fmt.Errorf("cannot scrape each %s: give at least 1s", c.Interval)
	}
	if c.RulesDir != "" {
		if _, err := os.ReadDir(c.RulesDir); err != nil {
			return fmt.Errorf("cannot read the directory of rules: %w", err)
		}
	}
	return nil
}

// build makes Prometheus' configuration, and what discovers the targets of which job.
func (c Config) build() (*prom.Config, map[string]discovery.Configs, error) {
	if err := c.validate(); err != nil {
		return nil, nil, err
	}
	built, err := c.global()
	if err != nil {
		return nil, nil, err
	}
	for _, address := range c.Alertmanagers {
		manager, err := alertmanager(address)
		if err != nil {
			return nil, nil, fmt.Errorf("cannot send alerts to %q: %w", redacted(address), err)
		}
		built.AlertingConfig.AlertmanagerConfigs = append(built.AlertingConfig.AlertmanagerConfigs, manager)
	}
	sources := map[string]discovery.Configs{}
	for i := range c.Jobs {
		job := c.Jobs[i].ScrapeConfig // a copy: Validate fills it
		if err := add(built, sources, &job); err != nil {
			return nil, nil, fmt.Errorf("cannot scrape %s: %w", job.JobName, err)
		}
		if targets := c.Jobs[i].Targets; targets != nil {
			config, ok := targets.(*source)
			if !ok {
				config = &source{targets}
			}
			sources[job.JobName] = append(slices.Clone(sources[job.JobName]), config)
		}
	}
	if c.ScrapeConfigFile == "" {
		return built, sources, nil
	}
	return built, sources, addFile(built, sources, c.ScrapeConfigFile)
}

// global makes a configuration without jobs.
func (c Config) global() (*prom.Config, error) {
	built, err := prom.Load("", nil) // only a configuration that is loaded can be applied
	if err != nil {
		return nil, fmt.Errorf("cannot make a configuration of Prometheus: %w", err)
	}
	if _, err := url.Parse(c.ExternalURL); err != nil {
		return nil, fmt.Errorf("cannot use the external URL: %w", err)
	}
	global := &built.GlobalConfig
	interval := model.Duration(c.Interval)
	global.ScrapeInterval, global.EvaluationInterval = interval, interval
	global.ScrapeTimeout = min(interval, model.Duration(scrapeTimeout))
	global.BodySizeLimit, global.SampleLimit, global.TargetLimit = bodyLimit, sampleLimit, targetLimit
	global.LabelLimit, global.LabelNameLengthLimit, global.LabelValueLengthLimit = labelLimit, labelNameLimit, labelValueLimit
	global.KeepDroppedTargets = keepDropped
	global.ExternalLabels = labels.FromMap(c.ExternalLabels)
	retention := built.StorageConfig.TSDBConfig.Retention
	retention.Time = model.Duration(c.Retention)
	retention.Size = units.Base2Bytes(max(0, c.MaxSize))
	return built, nil
}

// add adds a job. It fills the job's zero values.
func add(built *prom.Config, sources map[string]discovery.Configs, job *prom.ScrapeConfig) error {
	if job.JobName == "" {
		return errors.New("the job has no name")
	}
	if _, ok := sources[job.JobName]; ok {
		return fmt.Errorf("there are two jobs of the name %q", job.JobName)
	}
	if job.ScrapeFailureLogFile != "" {
		return errors.New("scrape_failure_log_file cannot be used: what fails is in the log of the metrics server")
	}
	if err := job.HTTPClientConfig.Validate(); err != nil {
		return err
	}
	if err := job.Validate(built.GlobalConfig); err != nil {
		return err
	}
	sources[job.JobName] = job.ServiceDiscoveryConfigs
	built.ScrapeConfigs = append(built.ScrapeConfigs, job)
	return nil
}

// alertmanager makes the configuration of one Alertmanager.
func alertmanager(address string) (*prom.AlertmanagerConfig, error) {
	parsed, err := url.Parse(address)
	if err != nil {
		return nil, errors.New("it is no URL")
	}
	if parsed.Scheme != "http" && parsed.Scheme != "https" || parsed.Host == "" {
		return nil, errors.New("give a URL as https://alertmanager.example:9093")
	}
	made := prom.DefaultAlertmanagerConfig
	made.Scheme, made.PathPrefix = parsed.Scheme, strings.TrimSuffix(parsed.Path, "/")
	made.HTTPClientConfig.FollowRedirects = false
	if user := parsed.User; user != nil {
		password, _ := user.Password()
		made.HTTPClientConfig.BasicAuth = &config.BasicAuth{Username: user.Username(), Password: config.Secret(password)}
	}
	made.ServiceDiscoveryConfigs = discovery.Configs{discovery.StaticConfig{
		{Targets: []model.LabelSet{{model.AddressLabel: model.LabelValue(parsed.Host)}}, Source: address},
	}}
	return &made, made.Validate(model.UTF8Validation)
}

// redacted returns a URL without its password.
func redacted(address string) string {
	parsed, err := url.Parse(address)
	if err != nil {
		return "a URL that cannot be parsed"
	}
	return parsed.Redacted()
}
