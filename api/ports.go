package api

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// PortMapping publishes one port of a pod at a port of its node.
type PortMapping struct {
	ContainerPort int32
	Protocol      string // as in a containerPort: "TCP", "UDP" or "SCTP"
	HostPort      int32
}

// portProtocols are the protocols of Kubernetes
// (https://kubernetes.io/docs/reference/networking/service-protocols/).
var portProtocols = []string{"TCP", "UDP", "SCTP"}

// FormatPortMappings returns the value of AnnotationPortMappings, such as "80/TCP=31005,53/UDP=31006".
func FormatPortMappings(mappings []PortMapping) string {
	parts := make([]string, len(mappings))
	for i, m := range mappings {
		parts[i] = fmt.Sprintf("%d/%s=%d", m.ContainerPort, m.Protocol, m.HostPort)
	}
	return strings.Join(parts, ",")
}

// ParsePortMappings is the inverse of FormatPortMappings. An empty value means no mappings.
func ParsePortMappings(value string) ([]PortMapping, error) {
	if value == "" {
		return nil, nil
	}
	var mappings []PortMapping
	for _, part := range strings.Split(value, ",") {
		port, host, _ := strings.Cut(part, "=")
		number, protocol, _ := strings.Cut(port, "/")
		container, ok := parsePort(number)
		published, fine := parsePort(host)
		if !ok || !fine || !slices.Contains(portProtocols, protocol) {
			return nil, fmt.Errorf("annotation %s: %q is not of the form CONTAINERPORT/PROTOCOL=HOSTPORT, such as 80/TCP=31005",
				AnnotationPortMappings, part)
		}
		mappings = append(mappings, PortMapping{ContainerPort: container, Protocol: protocol, HostPort: published})
	}
	return mappings, nil
}

func parsePort(text string) (port int32, ok bool) {
	number, err := strconv.ParseUint(text, 10, 16)
	return int32(number), err == nil && number > 0
}
