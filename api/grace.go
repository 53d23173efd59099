package api

import (
	"math"
	"time"

	v1 "k8s.io/api/core/v1"
)

// Seconds converts n to a duration, capped at the longest one, about 292 years.
func Seconds(n int64) time.Duration {
	const most = int64(math.MaxInt64 / time.Second)
	return time.Duration(min(max(n, -most), most)) * time.Second
}

// GracePeriod returns the pod's termination grace period. Kubernetes treats a negative period as one second
// (https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/#PodSpec), and has no upper limit.
func GracePeriod(pod *v1.Pod) time.Duration {
	seconds := pod.Spec.TerminationGracePeriodSeconds
	switch {
	case seconds == nil:
		return v1.DefaultTerminationGracePeriodSeconds * time.Second
	case *seconds < 0:
		return time.Second
	}
	return Seconds(*seconds)
}
