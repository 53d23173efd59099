package metrics

import (
	"context"
	"fmt"
	"net/url"

	prom "github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	"k8s.io/client-go/rest"

	"github.com/k8sm/k8sm/api/protobuf"
	"github.com/k8sm/k8sm/api/state"
	"github.com/k8sm/k8sm/api/statedir"
	"github.com/k8sm/k8sm/contrib/metrics/history"
	"github.com/k8sm/k8sm/contrib/metrics/rules"
	"github.com/k8sm/k8sm/contrib/metrics/targets"
	"github.com/k8sm/k8sm/scheduler/status"
)

// sources is where metrics come from.
type sources struct {
	finder targets.Finder
	board  targets.Board
	jobs   []history.Job
}

// newSources describes the cluster to which the configuration leads.
func (c Config) newSources(config *rest.Config) (*sources, error) {
	etcd, err := c.Dir.MetricsEtcd()
	if err != nil {
		return nil, err
	}
	kube, err := protobuf.NewClient(config)
	if err != nil {
		return nil, fmt.Errorf("cannot create a client for the API server: %w", err)
	}
	s := &sources{finder: targets.Finder{Kube: kube, Fixed: c.fixed(etcd), Leader: c.leader(etcd)}}
	text, err := targets.Scrape(c.Dir, etcd)
	if err != nil {
		return nil, err
	}
	parsed, err := prom.Load(string(text), nil)
	if err != nil {
		return nil, fmt.Errorf("cannot use km's own scrape configuration: %w", err)
	}
	for _, job := range parsed.ScrapeConfigs {
		s.jobs = append(s.jobs, history.Job{
			ScrapeConfig: *job,
			Targets: history.TargetFunc(func(ctx context.Context, groups chan<- []*targetgroup.Group) {
				s.board.Tell(ctx, job.JobName, groups)
			}),
		})
	}
	return s, nil
}

// follow keeps the targets up to date until ctx ends.
func (s *sources) follow(ctx context.Context) error { return s.finder.Follow(ctx, s.board.Set) }

// fixed are the targets beside this server.
func (c Config) fixed(etcd statedir.Etcd) map[string][]string {
	fixed := map[string][]string{targets.JobDNS: c.DNS, targets.JobMetrics: {c.listen().String()}}
	if c.Logs != "" {
		fixed[targets.JobLogs] = []string{c.Logs}
	}
	for _, endpoint := range etcd.Endpoints {
		if parsed, err := url.Parse(endpoint); err == nil {
			fixed[targets.JobEtcd] = append(fixed[targets.JobEtcd], parsed.Host)
		}
	}
	return fixed
}

// leader returns a function that finds the leading scheduler's status, as km queue does.
func (c Config) leader(etcd statedir.Etcd) func(context.Context) (string, error) {
	cluster := state.Config{Endpoints: etcd.Endpoints, CAFile: etcd.CAFile, CertFile: etcd.CertFile, KeyFile: etcd.KeyFile, Name: c.ClusterName}
	return func(ctx context.Context) (string, error) {
		identity, err := state.ReadLeader(ctx, cluster)
		if err != nil {
			return "", err
		}
		return status.AddressOf(identity), nil
	}
}

// history is the configuration of what is kept.
func (c Config) history(jobs []history.Job) history.Config {
	maxSize := c.MaxSize
	if maxSize == 0 {
		maxSize = -1
	}
	return history.Config{
		Dir: c.Dir.Metrics(), Retention: c.Retention, MaxSize: maxSize, Jobs: jobs, ScrapeConfigFile: c.ScrapeConfig,
		RulesDir: c.Rules, DefaultRules: rules.Files, Alertmanagers: c.Alertmanagers,
	}
}
