package api

import (
	"math"
	"time"

	v1 "k8s.io/api/core/v1"
)

// Seconds returns so many seconds as a duration: the longest there is, of 292 years, for more than that.
func Seconds(n int64) time.Duration {
	const most = int64(math.MaxInt64 / time.Second)
	return time.Duration(min(max(n, -most), most)) * time.Second
}

// GracePeriod returns how long the containers of a pod may take to end. Kubernetes takes a period below 0 for one second
// (https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/#PodSpec), and has no upper bound.
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
