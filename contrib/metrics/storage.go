package metrics

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"time"

	"github.com/spf13/pflag"

	"github.com/k8sm/k8sm/contrib/flagvalue"
	"github.com/k8sm/k8sm/contrib/metrics/history"
)

// Storage configures what is kept of metrics, what more is read, and what becomes of them.
type Storage struct {
	// Retention is how long metrics are kept, and MaxSize how many bytes they may take on disk.
	Retention time.Duration
	MaxSize   int64
	// ScrapeConfig is a file with further scrape_configs, and Rules a directory of rule files; empty for none.
	ScrapeConfig, Rules string
	// Alertmanagers are the URLs of those that get alerts.
	Alertmanagers []string
}

// addFlags adds the flags, whose names begin with the prefix but for --alertmanager.
func (s *Storage) addFlags(fs *pflag.FlagSet, prefix string) {
	s.Retention, s.MaxSize = history.DefaultRetention, history.DefaultMaxSize
	fs.Var((*flagvalue.Retention)(&s.Retention), prefix+"retention", "how `long` metrics are kept, such as 36h, 15d or 1y")
	fs.Var((*flagvalue.Size)(&s.MaxSize), prefix+"max-size", "how much disk metrics may take, as a `size` such as 512MiB or 1GiB; the oldest go first. 0 means no limit")
	fs.StringVar(&s.ScrapeConfig, prefix+"scrape-config", "", "`file` with further scrape_configs, in the format of Prometheus. Changes are taken over")
	fs.StringVar(&s.Rules, prefix+"rules", "", "`directory` of rule files (*.yaml, *.yml) in the format of Prometheus, besides km's own. Changes are taken over")
	fs.StringSliceVar(&s.Alertmanagers, "alertmanager", nil, "URLs of the Alertmanagers that get alerts, such as http://10.0.0.7:9093")
}

// validate checks the settings. Errors name the flags, which begin with the prefix.
func (s Storage) validate(prefix string) error {
	if s.Retention < 2*time.Hour {
		return fmt.Errorf("cannot use --%sretention=%s: give at least 2h", prefix, (*flagvalue.Retention)(&s.Retention))
	}
	if s.MaxSize < 0 || s.MaxSize > 0 && s.MaxSize < 32<<20 {
		return fmt.Errorf("cannot use --%smax-size=%s: give at least 32MiB, or 0 for no limit", prefix, (*flagvalue.Size)(&s.MaxSize))
	}
	if s.Rules != "" {
		if _, err := os.ReadDir(s.Rules); err != nil {
			return fmt.Errorf("cannot use --%srules: %w", prefix, err)
		}
	}
	for _, a := range s.Alertmanagers {
		if parsed, err := url.Parse(a); err != nil || parsed.Scheme != "http" && parsed.Scheme != "https" || parsed.Host == "" {
			return errors.New("cannot use --alertmanager: give URLs such as http://10.0.0.7:9093")
		}
	}
	if s.ScrapeConfig == "" {
		return nil
	}
	if err := (history.Config{Dir: "unused", ScrapeConfigFile: s.ScrapeConfig}).Validate(); err != nil {
		return fmt.Errorf("cannot use --%sscrape-config: %w", prefix, err)
	}
	return nil
}
