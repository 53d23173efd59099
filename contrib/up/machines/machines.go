// Package machines simulates machines for `km up --nodes`. Each is a network namespace with an address of its own, connected by a
// bridge to the others and to this machine. The package knows links, routes and rules, and how to disconnect, slow down and stop a
// machine. It does not know what runs there.
//
// Everything that it creates has a mark of the cluster's state directory in its name and lives until Down. If a process is killed,
// the next Up takes over what it left. Packets to elsewhere are masqueraded with this machine's address. Nothing from elsewhere
// reaches a machine, and no address of a pod or service gets out.
//
// Start reading at Machines.Up; fault.go has what people and tests do to machines.
package machines

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Config configures the machines.
type Config struct {
	// Cluster is the cluster's name, and Dir its state directory, absolute.
	Cluster, Dir string
	// Count is the number of machines.
	Count int
	// CIDR is the range of the machines' addresses, such as DefaultCIDR, or a list of an IPv4 and an IPv6 one. Empty means
	// DefaultCIDR, and DefaultCIDR6 if pods have IPv6 addresses.
	CIDR string
	// Closed are the ranges of pods and services, by flag. CIDR must not overlap them.
	Closed map[string]string `json:"-"`
	// Ports are the ports on this machine's address that machines and pods must reach, whatever firewall this machine has.
	Ports []Port `json:"-"`
}

// Port is a port of a protocol, "tcp" or "udp".
type Port struct {
	Protocol string
	Number   int
}

// DefaultCIDR and DefaultCIDR6 are ranges that neither the cluster's other ranges nor Docker's usual ones overlap.
const (
	DefaultCIDR  = "10.213.0.0/24"
	DefaultCIDR6 = "fd6b:6d73::/64"
)

// maxCount bounds the number of machines: one host cannot carry more.
const maxCount = 100

// clusterNames matches names that are valid in the names of namespaces.
var clusterNames = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// Validate checks the configuration. Errors name the flags of `km up`.
func (c Config) Validate() error {
	if c.Count < 1 || c.Count > maxCount {
		return fmt.Errorf("cannot use --nodes=%d: give a number from 1 to %d", c.Count, maxCount)
	}
	if !clusterNames.MatchString(c.Cluster) {
		return fmt.Errorf("cannot use --cluster-name=%s with --nodes: network namespaces are named after it, so give letters, digits, - and _ only", c.Cluster)
	}
	ranges := c.ranges()
	if len(ranges) == 0 || len(ranges) > 2 || !ranges[0].Addr().Is4() || len(ranges) == 2 && !ranges[1].Addr().Is6() {
		return fmt.Errorf("cannot use --node-cidr=%s: not an IPv4 range such as %s, or that and an IPv6 one", c.CIDR, DefaultCIDR)
	}
	if len(ranges) == 1 && c.podsHaveIPv6() {
		return fmt.Errorf("cannot use --node-cidr=%s: pods have IPv6 addresses, so nodes need them too: give %s,%s", c.CIDR, c.CIDR, DefaultCIDR6)
	}
	for _, prefix := range ranges {
		if err := c.checkRange(prefix); err != nil {
			return err
		}
	}
	return nil
}

func (c Config) podsHaveIPv6() bool { return strings.Contains(c.Closed["--cluster-cidr"], ":") }

// ranges parses CIDR; it returns none if one range is invalid.
func (c Config) ranges() (ranges []netip.Prefix) {
	text := c.CIDR
	if text == "" {
		text = DefaultCIDR
		if c.podsHaveIPv6() {
			text += "," + DefaultCIDR6
		}
	}
	for _, cidr := range splitRanges(text) {
		prefix, err := netip.ParsePrefix(cidr)
		if err != nil || prefix != prefix.Masked() {
			return nil
		}
		ranges = append(ranges, prefix)
	}
	return ranges
}

func (c Config) checkRange(prefix netip.Prefix) error {
	if hosts := prefix.Addr().BitLen() - prefix.Bits(); hosts < 16 {
		if room := 1<<hosts - 3; c.Count > room { // less the network's, the bridge's and the broadcast address
			return fmt.Errorf("cannot use --node-cidr=%s: it has addresses for %d nodes, not for %d", prefix, max(0, room), c.Count)
		}
	}
	for flag, text := range c.Closed {
		for _, cidr := range splitRanges(text) {
			if other, err := netip.ParsePrefix(cidr); err == nil && other.Overlaps(prefix) {
				return fmt.Errorf("cannot use --node-cidr=%s: it overlaps %s=%s; give another range of this machine's own", prefix, flag, cidr)
			}
		}
	}
	return nil
}

// Machine is one of the machines.
type Machine struct {
	// Name is its hostname.
	Name string
	// Address is its IPv4 address, Address6 its IPv6 one if it has one.
	Address, Address6 netip.Addr

	namespace string // path of its network namespace
	link      string // its end of the cable on this machine
}

// Machines are the machines of one cluster. Its methods may be called by one goroutine at a time.
type Machines struct {
	// List are the machines, in the order of their names.
	List []*Machine
	// Gateway is this machine's IPv4 address on the bridge.
	Gateway netip.Addr

	cfg    Config
	ranges []netip.Prefix
	mark   string
}

// New plans the machines and creates nothing. The configuration must be valid.
func New(cfg Config) (*Machines, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	h := fnv.New32a()
	h.Write([]byte(cfg.Dir))
	m := &Machines{cfg: cfg, mark: fmt.Sprintf("%06x", h.Sum32()&0xffffff)}
	m.ranges = cfg.ranges()
	m.Gateway = gateway(m.ranges[0])
	var last []netip.Addr
	for _, prefix := range m.ranges {
		last = append(last, gateway(prefix))
	}
	for i := range cfg.Count {
		for n := range last {
			last[n] = last[n].Next()
		}
		var address6 netip.Addr
		if len(last) > 1 {
			address6 = last[1]
		}
		name := fmt.Sprintf("node-%d", i+1)
		m.List = append(m.List, &Machine{
			Name: name, Address: last[0], Address6: address6,
			namespace: filepath.Join(namespaces, fmt.Sprintf("%s-%s-%s", cfg.Cluster, m.mark, name)),
			link:      fmt.Sprintf("%s-%d", m.bridge(), i+1),
		})
	}
	return m, nil
}

// gateway is this machine's address in a range.
func gateway(prefix netip.Prefix) netip.Addr { return prefix.Addr().Next() }

// bridge is the name of the bridge; interfaces' names have at most 15 bytes.
func (m *Machines) bridge() string { return "k8sm-" + m.mark }

// record is the file that records the machines, as long as there may be any.
func record(dir string) string { return filepath.Join(dir, "machines.json") }

// Load returns the machines that Up made for the cluster in the directory. The error is os.ErrNotExist if there are none.
func Load(dir string) (*Machines, error) {
	data, err := os.ReadFile(record(dir))
	if err != nil {
		return nil, fmt.Errorf("cannot find the cluster's machines: %w", err)
	}
	var cfg Config
	if err := json.Unmarshal(data, &cfg); err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", record(dir), err)
	}
	return New(cfg)
}

// Left returns the machines that a killed process left in the directory.
func Left(dir string) (*Machines, error) {
	m, err := Load(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, machine := range m.List {
		if isNamespace(machine.namespace) {
			return m, nil
		}
	}
	return nil, nil // this machine was rebooted since
}

// Same reports whether a configuration makes these machines.
func (m *Machines) Same(cfg Config) bool {
	return m.cfg.Cluster == cfg.Cluster && m.cfg.Count == cfg.Count && slices.Equal(m.ranges, cfg.ranges())
}

// Flags returns the flags of `km up` that make these machines.
func (m *Machines) Flags() string {
	return fmt.Sprintf("--cluster-name=%s --nodes=%d --node-cidr=%s", m.cfg.Cluster, m.cfg.Count, m.cidr())
}

// cidr is the list of the machines' ranges, as --node-cidr takes it.
func (m *Machines) cidr() string {
	var list []string
	for _, prefix := range m.ranges {
		list = append(list, prefix.String())
	}
	return strings.Join(list, ",")
}

// Find returns the machine of that name.
func (m *Machines) Find(name string) (*Machine, error) {
	var names []string
	for _, machine := range m.List {
		if machine.Name == name {
			return machine, nil
		}
		names = append(names, machine.Name)
	}
	return nil, fmt.Errorf("there is no node %q: there are %v", name, names)
}

// Up creates the machines, or takes over existing ones.
func (m *Machines) Up() error {
	left, err := Left(m.cfg.Dir)
	if err != nil {
		return err
	}
	made := m.cfg
	made.CIDR = m.cidr()
	data, err := json.Marshal(made)
	if err != nil {
		return err
	}
	if err := os.WriteFile(record(m.cfg.Dir), data, 0o600); err != nil {
		return fmt.Errorf("cannot note the cluster's machines: %w", err)
	}
	if err = m.make(); err != nil && left == nil { // something may run on machines that were left
		err = errors.Join(err, m.Down())
	}
	return err
}

func (m *Machines) make() error {
	if err := m.guard(); err != nil { // before anything can be reached
		return err
	}
	if err := m.makeBridge(); err != nil {
		return err
	}
	for _, machine := range m.List {
		if err := m.makeMachine(machine); err != nil {
			return fmt.Errorf("cannot make node %s: %w", machine.Name, err)
		}
	}
	return nil
}

// Down removes everything that Up created. Processes on a machine must have exited: otherwise Down removes nothing, and the next Up
// takes over.
func (m *Machines) Down() error {
	for _, machine := range m.List {
		if err := machine.awaitNoProcess(); err != nil {
			return err
		}
	}
	var problems []error
	for _, machine := range m.List {
		problems = append(problems, removeLink(machine.link), removeNamespace(machine.namespace))
	}
	problems = append(problems, removeLink(m.bridge()), m.unguard())
	if err := errors.Join(problems...); err != nil {
		return err
	}
	return os.Remove(record(m.cfg.Dir))
}

// EngineDir is where the Docker Engine of a machine keeps its files, below the cluster's state directory.
func EngineDir(dir, machine string) string { return filepath.Join(dir, "engine-"+machine) }

// EngineSocket is where that Engine listens.
func EngineSocket(dir, machine string) string {
	return filepath.Join(EngineDir(dir, machine), "d.sock")
}
