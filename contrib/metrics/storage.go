package metrics

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"time"

	"github.com/alecthomas/units"
	"github.com/prometheus/common/model"
	"github.com/spf13/pflag"

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
	fs.Var((*retention)(&s.Retention), prefix+"retention", "how `long` metrics are kept, such as 36h, 15d or 1y")
	fs.Var((*size)(&s.MaxSize), prefix+"max-size", "how much disk metrics may take, as a `size` such as 512MiB or 1GiB; the oldest go first. 0 means no limit")
	fs.StringVar(&s.ScrapeConfig, prefix+"scrape-config", "", "`file` with further scrape_configs, in the format of Prometheus. Changes are taken over")
	fs.StringVar(&s.Rules, prefix+"rules", "", "`directory` of rule files (*.yaml, *.yml) in the format of Prometheus, besides km's own. Changes are taken over")
	fs.StringSliceVar(&s.Alertmanagers, "alertmanager", nil, "URLs of the Alertmanagers that get alerts, such as http://10.0.0.7:9093")
}

// validate checks the settings. Errors name the flags, which begin with the prefix.
func (s Storage) validate(prefix string) error {
	if s.Retention < 2*time.Hour {
		return fmt.Errorf("cannot use --%sretention=%s: give at least 2h", prefix, (*retention)(&s.Retention))
	}
	if s.MaxSize < 0 || s.MaxSize > 0 && s.MaxSize < 32<<20 {
		return fmt.Errorf("cannot use --%smax-size=%s: give at least 32MiB, or 0 for no limit", prefix, (*size)(&s.MaxSize))
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

// retention is a duration as Prometheus writes it.
type retention time.Duration

func (r *retention) String() string { return model.Duration(*r).String() }

func (*retention) Type() string { return "long" }

func (r *retention) Set(text string) error {
	d, err := model.ParseDuration(text)
	if err != nil {
		return errors.New("give a time such as 36h, 15d or 1y")
	}
	*r = retention(d)
	return nil
}

// size is a number of bytes with a binary unit.
type size int64

func (s *size) String() string { return units.Base2Bytes(*s).String() }

func (*size) Type() string { return "size" }

func (s *size) Set(text string) error {
	bytes, err := units.ParseBase2Bytes(text)
	if err != nil && text != "0" {
		return errors.New("give a size such as 512MiB or 1GiB")
	}
	*s = size(bytes)
	return nil
}
