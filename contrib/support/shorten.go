package support

import (
	"slices"
	"strings"
)

// keep is what is kept of a map: the fields that are named, each with what is kept of its value, and of each item if it is a list. all
// keeps everything.
type keep map[string]keep

// all is not nil, so that a field that is misspelled in a keep is not kept whole.
var all = keep{}

var (
	metadata = fields("name", "namespace", "uid", "labels", "annotations", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds",
		"finalizers", "generation", "resourceVersion", "ownerReferences")
	container = fields("name", "image", "imagePullPolicy", "ports", "resources", "restartPolicy")
	podSpec   = fields("nodeName", "nodeSelector", "affinity", "tolerations", "topologySpreadConstraints", "priority", "priorityClassName",
		"preemptionPolicy", "restartPolicy", "hostNetwork", "hostPID", "hostIPC", "dnsPolicy", "schedulerName", "schedulingGates", "serviceAccountName",
		"terminationGracePeriodSeconds", "overhead", "resources").and("containers", container).and("initContainers", container).
		and("volumes", fields("name", "persistentVolumeClaim"))
	containerState = keep{"waiting": fields("reason"), "running": all, "terminated": fields("exitCode", "signal", "reason", "startedAt", "finishedAt")}
	containerRun   = fields("name", "image", "imageID", "containerID", "ready", "started", "restartCount").and("state", containerState).and("lastState", containerState)
	podStatus      = fields("phase", "reason", "message", "conditions", "podIP", "podIPs", "hostIP", "hostIPs", "qosClass", "startTime", "nominatedNodeName").
			and("containerStatuses", containerRun).and("initContainerStatuses", containerRun)
	controller = keep{
		"spec": fields("replicas", "selector", "strategy", "updateStrategy", "paused", "minReadySeconds", "progressDeadlineSeconds",
			"revisionHistoryLimit", "serviceName", "podManagementPolicy", "parallelism", "completions", "backoffLimit", "activeDeadlineSeconds", "suspend").
			and("template", keep{"metadata": fields("labels"), "spec": podSpec}),
		"status": all,
	}
	specAndStatus = fields("spec", "status")
)

// resources are the objects of a bundle, by the paths of their lists, with what is kept of them besides their metadata: what a person who
// helps needs, and what nobody writes a secret into. Secrets and ConfigMaps are not among them. Of containers there is no command, no
// environment, no probe and no message of their own.
var resources = map[string]keep{
	"/api/v1/nodes":                               specAndStatus,
	"/api/v1/namespaces":                          specAndStatus,
	"/api/v1/services":                            specAndStatus,
	"/api/v1/pods":                                {"spec": podSpec, "status": podStatus},
	"/api/v1/replicationcontrollers":              controller,
	"/apis/apps/v1/deployments":                   controller,
	"/apis/apps/v1/daemonsets":                    controller,
	"/apis/apps/v1/replicasets":                   controller,
	"/apis/apps/v1/statefulsets":                  controller,
	"/apis/batch/v1/jobs":                         controller,
	"/api/v1/persistentvolumes":                   {"spec": fields("capacity", "accessModes", "claimRef", "persistentVolumeReclaimPolicy", "storageClassName", "volumeMode", "nodeAffinity"), "status": all},
	"/api/v1/persistentvolumeclaims":              specAndStatus,
	"/apis/policy/v1/poddisruptionbudgets":        specAndStatus,
	"/apis/networking.k8s.io/v1/networkpolicies":  specAndStatus,
	"/apis/coordination.k8s.io/v1/leases":         specAndStatus,
	"/apis/discovery.k8s.io/v1/endpointslices":    fields("addressType", "endpoints", "ports"),
	"/apis/storage.k8s.io/v1/storageclasses":      fields("provisioner", "reclaimPolicy", "volumeBindingMode", "allowVolumeExpansion", "allowedTopologies"),
	"/apis/scheduling.k8s.io/v1/priorityclasses":  fields("value", "globalDefault", "preemptionPolicy"),
	"/apis/apiregistration.k8s.io/v1/apiservices": {"spec": fields("group", "version", "service", "insecureSkipTLSVerify"), "status": all},
	"/apis/certificates.k8s.io/v1/certificatesigningrequests": {
		"spec": fields("signerName", "username", "groups", "usages", "expirationSeconds"), "status": fields("conditions"),
	},
	"/api/v1/events": fields("involvedObject", "reason", "message", "source", "firstTimestamp", "lastTimestamp", "eventTime", "count", "type",
		"series", "action", "related", "reportingComponent", "reportingInstance"),
}

// fields keeps each of the fields whole.
func fields(names ...string) keep {
	k := keep{}
	for _, name := range names {
		k[name] = all
	}
	return k
}

// and returns k with one more field.
func (k keep) and(name string, of keep) keep {
	k[name] = of
	return k
}

// of returns what is kept of a value.
func (k keep) of(value any) any {
	if len(k) == 0 {
		return value
	}
	switch value := value.(type) {
	case map[string]any:
		kept := map[string]any{}
		for name, of := range k {
			if v, ok := value[name]; ok {
				kept[name] = of.of(v)
			}
		}
		return kept
	case []any:
		for i, item := range value {
			value[i] = k.of(item)
		}
		return value
	}
	return nil
}

// shorten returns what is kept of an object. It changes the object.
func shorten(object map[string]any, k keep) map[string]any {
	short, _ := k.of(object).(map[string]any)
	short["metadata"] = metadata.of(object["metadata"])
	hideAnnotations(short["metadata"])
	if reason, _ := short["reason"].(string); slices.Contains(telling, reason) {
		delete(short, "message")
	}
	return short
}

// telling are the reasons of events that have the output of a probe or hook in their messages.
var telling = []string{"Unhealthy", "ProbeError", "ProbeWarning", "FailedPostStartHook", "FailedPreStopHook"}

// hideAnnotations removes annotations that are not Kubernetes' or k8sm's own, and those with whole objects in them.
func hideAnnotations(of any) {
	m, _ := of.(map[string]any)
	annotations, _ := m["annotations"].(map[string]any)
	for name := range annotations {
		domain, _, _ := strings.Cut(name, "/")
		own := domain == "k8sm.io" || domain == "kubernetes.io" || strings.HasSuffix(domain, ".kubernetes.io") || strings.HasSuffix(domain, ".k8s.io")
		if !own || name == "kubectl.kubernetes.io/last-applied-configuration" {
			delete(annotations, name)
		}
	}
}
