package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/k8sm/k8sm/minion/network"
)

// podDevice is the name of the device inside a sandbox.
const podDevice = "eth0"

// attachment records what a sandbox was given, and the configuration that gave it: DEL must use the same one.
type attachment struct {
	Sandbox   network.Sandbox `json:"sandbox"`
	Addresses []netip.Addr    `json:"addresses"`
	// Config is the plugin list, as read from its file.
	Config json.RawMessage `json:"config"`
	// Namespace tells the sandbox's network namespace from a later one with the same path.
	Namespace identity `json:"namespace"`
	// PodCIDRs are the node's.
	PodCIDRs []string `json:"podCIDRs,omitempty"`
}

// identity identifies a file by device and inode.
type identity struct {
	Device uint64 `json:"device"`
	Inode  uint64 `json:"inode"`
}

func identify(path string) (identity, error) {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return identity{}, fmt.Errorf("cannot find the sandbox's network namespace %s: %w", path, err)
	}
	return identity{stat.Dev, stat.Ino}, nil
}

// list parses the configuration that made the attachment.
func (a attachment) list() (*libcni.NetworkConfigList, error) {
	return libcni.NetworkConfFromBytes(a.Config)
}

// portMapping is an entry of the capability portMappings.
type portMapping struct {
	HostPort      uint16 `json:"hostPort"`
	ContainerPort uint16 `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP,omitempty"`
}

// runtimeConf returns the runtime's input to the plugins. If the namespace is gone, its path is omitted, as the specification says:
// the path may name another process by now, even one in the machine's own namespace.
func (a attachment) runtimeConf() (*libcni.RuntimeConf, error) {
	namespace, name, _ := strings.Cut(a.Sandbox.Pod, "/")
	conf := &libcni.RuntimeConf{
		ContainerID: a.Sandbox.ID, NetNS: a.Sandbox.Namespace, IfName: podDevice,
		Args: [][2]string{
			{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", namespace}, {"K8S_POD_NAME", name},
			{"K8S_POD_INFRA_CONTAINER_ID", a.Sandbox.ID}, {"K8S_POD_UID", a.Sandbox.UID},
		},
		CapabilityArgs: map[string]any{"io.kubernetes.cri.pod-annotations": a.Sandbox.Annotations},
	}
	if now, err := identify(conf.NetNS); err != nil || now != a.Namespace {
		conf.NetNS = ""
	}
	var ports []portMapping
	for _, port := range a.Sandbox.Ports {
		mapping := portMapping{HostPort: port.HostPort, ContainerPort: port.ContainerPort, Protocol: strings.ToLower(port.Protocol)}
		if port.HostIP.IsValid() {
			mapping.HostIP = port.HostIP.String()
		}
		ports = append(ports, mapping)
	}
	if len(ports) > 0 {
		conf.CapabilityArgs["portMappings"] = ports
	}
	if address := a.Sandbox.Address; address.IsValid() {
		conf.CapabilityArgs["ips"] = []string{netip.PrefixFrom(address, address.BitLen()).String()}
	}
	var ranges [][]map[string]string
	for _, cidr := range a.PodCIDRs {
		ranges = append(ranges, []map[string]string{{"subnet": cidr}})
	}
	if len(ranges) > 0 {
		conf.CapabilityArgs["ipRanges"] = ranges
	}
	limits, err := bandwidth(a.Sandbox.Annotations)
	if len(limits) > 0 {
		conf.CapabilityArgs["bandwidth"] = limits
	}
	return conf, err
}

// bandwidth returns the capability bandwidth from the pod's annotations, in bits per second
// (https://kubernetes.io/docs/concepts/extend-kubernetes/compute-storage-net/network-plugins/#support-traffic-shaping).
func bandwidth(annotations map[string]string) (map[string]int64, error) {
	least, most := resource.MustParse("1k"), resource.MustParse("1P")
	limits := map[string]int64{}
	for _, direction := range []string{"ingress", "egress"} {
		key := "kubernetes.io/" + direction + "-bandwidth"
		text, ok := annotations[key]
		if !ok {
			continue
		}
		rate, err := resource.ParseQuantity(text)
		if err != nil || rate.Cmp(least) < 0 || rate.Cmp(most) > 0 {
			return nil, fmt.Errorf("cannot limit the pod's bandwidth: annotation %s is %q, not bits per second from 1k to 1P, such as 10M", key, text)
		}
		limits[direction+"Rate"], limits[direction+"Burst"] = rate.Value(), math.MaxInt32
	}
	return limits, nil
}

// addressesOf returns the addresses that the plugins gave to the sandbox's own device.
func addressesOf(result types.Result) ([]netip.Addr, error) {
	current, err := types100.NewResultFromResult(result)
	if err != nil {
		return nil, fmt.Errorf("cannot read the plugins' result: %w", err)
	}
	var addresses []netip.Addr
	for _, ip := range current.IPs {
		if i := ip.Interface; i != nil && *i < len(current.Interfaces) && current.Interfaces[*i].Sandbox == "" {
			continue // an interface of the machine
		}
		if address, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			addresses = append(addresses, address.Unmap())
		}
	}
	if len(addresses) == 0 {
		return nil, errors.New("the plugins gave the pod no address")
	}
	return addresses, nil
}

// store is a directory with one file per attachment.
type store struct{ dir string }

const suffix = ".attachment"

func (s store) file(id string) string { return filepath.Join(s.dir, id+suffix) }

// save writes the file atomically, in case this process is killed.
func (s store) save(a attachment) error {
	data, err := json.Marshal(a)
	if err == nil {
		err = os.MkdirAll(s.dir, 0o700)
	}
	if err == nil {
		err = os.WriteFile(s.file(a.Sandbox.ID)+".new", data, 0o600)
	}
	if err == nil {
		err = os.Rename(s.file(a.Sandbox.ID)+".new", s.file(a.Sandbox.ID))
	}
	if err != nil {
		return fmt.Errorf("cannot record the pod's network attachment: %w", err)
	}
	return nil
}

func (s store) forget(id string) error {
	if err := os.Remove(s.file(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot remove the record of the pod's network attachment: %w", err)
	}
	return nil
}

// load returns the attachments that earlier processes recorded. The error names files that cannot be read.
func (s store) load() (map[string]attachment, error) {
	all := map[string]attachment{}
	files, err := filepath.Glob(filepath.Join(s.dir, "*"+suffix))
	for _, file := range files {
		var a attachment
		data, failed := os.ReadFile(file)
		if failed == nil {
			failed = json.Unmarshal(data, &a)
		}
		if failed != nil {
			err = errors.Join(err, fmt.Errorf("cannot read the record of a pod's network attachment (%s): %w", file, failed))
			continue
		}
		all[a.Sandbox.ID] = a
	}
	return all, err
}
