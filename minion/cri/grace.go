package cri

import (
	"strconv"
	"time"

	"github.com/k8sm/k8sm/api"
)

// annotationGrace is the annotation in which the kubelet stores a pod's terminationGracePeriodSeconds on its containers.
const annotationGrace = "io.kubernetes.pod.terminationGracePeriod"

// IsSandbox reports whether the Docker container of ours with these labels is a sandbox.
func IsSandbox(labels map[string]string) bool { return labels[labelKind] == kindSandbox }

// GracePeriod returns the termination grace period of the container with these Docker labels; ok is false if its pod sets none.
func GracePeriod(labels map[string]string) (grace time.Duration, ok bool) {
	record, err := readContainer(labels)
	if err != nil {
		return 0, false
	}
	seconds, err := strconv.ParseInt(record.Annotations[annotationGrace], 10, 64)
	return api.Seconds(seconds), err == nil
}
