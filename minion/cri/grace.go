package cri

import (
	"strconv"
	"time"

	"github.com/k8sm/k8sm/api"
)

// annotationGrace is where the kubelet notes a pod's terminationGracePeriodSeconds on its containers.
const annotationGrace = "io.kubernetes.pod.terminationGracePeriod"

// IsSandbox tells whether the Docker container of ours with these labels is a pod's sandbox.
func IsSandbox(labels map[string]string) bool { return labels[labelKind] == kindSandbox }

// GracePeriod returns how long the container with these Docker labels may take to end, as its pod says; ok is false if it
// does not.
func GracePeriod(labels map[string]string) (grace time.Duration, ok bool) {
	record, err := readContainer(labels)
	if err != nil {
		return 0, false
	}
	seconds, err := strconv.ParseInt(record.Annotations[annotationGrace], 10, 64)
	return api.Seconds(seconds), err == nil
}
