package v1beta1

import (
	"regexp"
	"strings"
)

// renamed is a part of a path of v1 with what it is called in v1beta1.
type renamed struct {
	v1      *regexp.Regexp
	v1beta1 string
}

func rename(v1, v1beta1 string) renamed { return renamed{regexp.MustCompile(v1), v1beta1} }

// fields are the renamed beginnings of paths, by kind. The first that matches is taken; \b ends a word.
var renamedFields = map[string][]renamed{
	"Pod": {
		rename(`^spec\.nodeName\b`, "desiredState.host"),
		rename(`^spec\.(containers|volumes|restartPolicy)\b`, manifestPath+".$1"),
	},
	"ReplicationController": {
		rename(`^spec\.template\.spec\.(containers|volumes|restartPolicy)\b`, templatePath+".$1"),
		rename(`^spec\.template\.metadata\.labels\b`, "desiredState.podTemplate.labels"),
		rename(`^spec\.selector\b`, "desiredState.replicaSelector"),
		rename(`^spec\.replicas\b`, "desiredState.replicas"),
	},
	"Service": {
		rename(`^spec\.ports\[0\]\.targetPort\b`, "containerPort"),
		rename(`^spec\.ports\[0\]\.(port|protocol)\b`, "$1"),
		rename(`^spec\.ports$`, "port"),
		rename(`^spec\.selector\b`, "selector"),
		rename(`^spec\.clusterIP(s|s\[0\])?$`, "portalIP"),
		rename(`^spec\.externalIPs\b`, "publicIPs"),
		rename(`^spec\.type\b`, "createExternalLoadBalancer"),
	},
	"Minion": {
		rename(`^status\.addresses\[0\]\.address\b`, "hostIP"),
		rename(`^status\.(?:capacity|allocatable)(?:\.|\[)(cpu|memory)\]?$`, "resources.capacity.$1"),
	},
	"Binding": {
		rename(`^metadata\.name\b`, "podID"),
		rename(`^target\.name\b`, "host"),
	},
	"Endpoints": {
		rename(`^subsets\b.*`, "endpoints"),
	},
	"Event": {
		rename(`^source\.component\b`, "source"),
		rename(`^action\b`, "status"),
		rename(`^lastTimestamp\b`, "timestamp"),
	},
}

// renamedMeta and renamedContainers are as renamedFields, for all kinds and inside of containers and volumes.
var (
	renamedMeta = []renamed{
		rename(`^metadata\.name\b`, "id"),
		rename(`^metadata\.(namespace|labels|annotations|uid|resourceVersion)\b`, "$1"),
	}
	renamedContainers = []renamed{
		rename(`\b(containers\[\d+\])\.command\b`, "$1.entrypoint"),
		rename(`\b(containers\[\d+\])\.args\b`, "$1.command"),
		rename(`\b(containers\[\d+\])\.resources\.(?:limits|requests)\[(cpu|memory)\]`, "$1.$2"),
		rename(`\b(containers\[\d+\])\.securityContext\.privileged\b`, "$1.privileged"),
		rename(`\b(volumes\[\d+\])\.hostPath\b`, "$1.source.hostDir"),
		rename(`\b(volumes\[\d+\])\.emptyDir\b`, "$1.source.emptyDir"),
	}
)

// FieldPath converts the path of a field of v1, as an error names it: spec.containers[0].name is
// desiredState.manifest.containers[0].name. What v1beta1 has no word for keeps its name.
func FieldPath(r Resource, path string) string {
	path = firstRenamed(renamedMeta, firstRenamed(renamedFields[r.Kind], path))
	if strings.Contains(path, manifestPath+".") || strings.Contains(path, templatePath+".") {
		path = firstRenamed(renamedContainers, path)
	}
	return path
}

func firstRenamed(list []renamed, path string) string {
	for _, f := range list {
		if f.v1.MatchString(path) {
			return f.v1.ReplaceAllString(path, f.v1beta1)
		}
	}
	return path
}
