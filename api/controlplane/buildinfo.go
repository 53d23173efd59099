package controlplane

import (
	"runtime"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/k8sm/k8sm/api"
)

// buildInfo tells the versions of this program among kube-apiserver's metrics, which tell only the stock one's.
func buildInfo() prometheus.Collector {
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "k8sm_controlplane_build_info", Help: "1, by the versions of km, of the Kubernetes in it, and of Go.",
	}, []string{"version", "kubernetes", "goversion"})
	info.WithLabelValues(api.Version, api.KubernetesVersion, runtime.Version()).Set(1)
	return info
}
