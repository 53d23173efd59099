package certfile

import (
	"maps"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	certutil "k8s.io/client-go/util/cert"
)

// Metrics tell how long the certificates of this process last, by their names: those that are in the files when somebody asks. Files
// that cannot be read are left out.
func Metrics(files map[string]string) prometheus.Collector {
	return collector{files: files, now: time.Now}
}

type collector struct {
	files map[string]string
	now   func() time.Time
}

var (
	left = prometheus.NewDesc("k8sm_certificate_left_seconds", "For how long a certificate of this process is still valid.", []string{"name"}, nil)
	life = prometheus.NewDesc("k8sm_certificate_life_seconds", "For how long it is valid in all.", []string{"name"}, nil)
)

// Describe implements prometheus.Collector.
func (collector) Describe(all chan<- *prometheus.Desc) {
	all <- left
	all <- life
}

// Collect implements prometheus.Collector.
func (c collector) Collect(all chan<- prometheus.Metric) {
	for _, name := range slices.Sorted(maps.Keys(c.files)) {
		certs, err := certutil.CertsFromFile(c.files[name])
		if err != nil {
			continue
		}
		all <- prometheus.MustNewConstMetric(left, prometheus.GaugeValue, certs[0].NotAfter.Sub(c.now()).Seconds(), name)
		all <- prometheus.MustNewConstMetric(life, prometheus.GaugeValue, certs[0].NotAfter.Sub(certs[0].NotBefore).Seconds(), name)
	}
}
