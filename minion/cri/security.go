package cri

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// defaultCapabilities are the capabilities of an unprivileged Docker container
// (https://docs.docker.com/engine/containers/run/#runtime-privilege-and-linux-capabilities).
var defaultCapabilities = []string{
	"AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "NET_RAW",
	"SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
}

// profiles are the three kinds of mandatory access control in CRI, for sandboxes and containers alike.
type profiles struct {
	seccomp  *runtimeapi.SecurityProfile
	appArmor *runtimeapi.SecurityProfile
	selinux  *runtimeapi.SELinuxOption
}

// securityOpts returns the profiles as Docker's security options.
func (p profiles) securityOpts(h host) ([]string, error) {
	var opts []string
	if label := p.selinux; label != nil {
		for _, part := range [][2]string{{"user", label.User}, {"role", label.Role}, {"type", label.Type}, {"level", label.Level}} {
			if part[1] != "" {
				opts = append(opts, "label="+part[0]+":"+part[1])
			}
		}
	}
	switch {
	case p.seccomp == nil || p.seccomp.GetProfileType() == runtimeapi.SecurityProfile_Unconfined:
		// CRI's default is unconfined; the kubelet sets a profile if it wants one (--seccomp-default).
		opts = append(opts, "seccomp=unconfined")
	case p.seccomp.GetProfileType() == runtimeapi.SecurityProfile_Localhost:
		// The Engine's API takes the profile's content; only its command line takes a file.
		profile, err := os.ReadFile(p.seccomp.GetLocalhostRef())
		if err != nil {
			return nil, refuse("cannot read the seccomp profile: %v", err)
		}
		opts = append(opts, "seccomp="+string(profile))
	}
	switch p.appArmor.GetProfileType() {
	case runtimeapi.SecurityProfile_Unconfined:
		if h.appArmor {
			opts = append(opts, "apparmor=unconfined")
		}
	case runtimeapi.SecurityProfile_Localhost:
		name := strings.TrimPrefix(p.appArmor.GetLocalhostRef(), "localhost/")
		if !h.appArmor {
			return nil, refuse("AppArmor profile %q is requested, but this host has no AppArmor", name)
		}
		if h.lacksProfile(name) {
			return nil, refuse("AppArmor profile %q is requested, but not loaded on this host: load it with apparmor_parser -r FILE", name)
		}
		opts = append(opts, "apparmor="+name)
	}
	return opts, nil
}

// userAndGroups translates the user and groups of the container. An empty user means the image's.
func userAndGroups(sc *runtimeapi.LinuxContainerSecurityContext) (user string, groups []string, err error) {
	switch {
	case sc.GetRunAsUser() != nil:
		user = strconv.FormatInt(sc.GetRunAsUser().GetValue(), 10)
	case sc.GetRunAsUsername() != "":
		user = sc.GetRunAsUsername()
	}
	if group := sc.GetRunAsGroup(); group != nil {
		if user == "" {
			return "", nil, refuse("run_as_group is set without run_as_user or run_as_username")
		}
		user += ":" + strconv.FormatInt(group.GetValue(), 10)
	}
	if sc.GetSupplementalGroupsPolicy() == runtimeapi.SupplementalGroupsPolicy_Strict && user != "" && sc.GetRunAsGroup() == nil {
		return "", nil, refuse("supplemental groups policy Strict requires run_as_group: otherwise Docker adds the user's groups from the image")
	}
	for _, group := range sc.GetSupplementalGroups() {
		groups = append(groups, strconv.FormatInt(group, 10))
	}
	return user, groups, nil
}

// applySecurity translates the security context except the user and the namespaces.
func applySecurity(hc *container.HostConfig, sc *runtimeapi.LinuxContainerSecurityContext, h host) error {
	if len(sc.GetCapabilities().GetAddAmbientCapabilities()) > 0 {
		return refuse("ambient capabilities are requested, but Docker does not support them")
	}
	hc.ReadonlyRootfs = sc.GetReadonlyRootfs()
	if sc.GetPrivileged() {
		applyPrivileged(hc, h)
		return nil
	}
	p := profiles{seccomp: sc.GetSeccomp(), appArmor: sc.GetApparmor(), selinux: sc.GetSelinuxOptions()}
	opts, err := p.securityOpts(h)
	if err != nil {
		return err
	}
	if sc.GetNoNewPrivs() {
		opts = append(opts, "no-new-privileges")
	}
	hc.SecurityOpt = opts
	if sc != nil {
		// An empty list means none; Docker applies its defaults only if the list is nil.
		hc.MaskedPaths = append([]string{}, sc.GetMaskedPaths()...)
		hc.ReadonlyPaths = append([]string{}, sc.GetReadonlyPaths()...)
	}
	hc.CapAdd, hc.CapDrop = capabilities(sc.GetCapabilities(), h)
	return nil
}

// capabilities translates added and dropped capabilities to what this host can grant. Docker's default set may contain withheld ones; then
// what is left of it is named. ALL means all that the kernel knows, and since Engine 23.0 all that the Engine itself has: that refuses to
// drop others (https://github.com/moby/moby/pull/42933).
func capabilities(c *runtimeapi.Capability, h host) (add, drop []string) {
	add, drop = plainNames(c.GetAddCapabilities()), plainNames(c.GetDropCapabilities())
	all, none := slices.Contains(add, "ALL"), slices.Contains(drop, "ALL")
	if !all && !none && slices.ContainsFunc(defaultCapabilities, h.withholds) {
		for _, name := range defaultCapabilities {
			if !slices.Contains(drop, name) && !slices.Contains(add, name) {
				add = append(add, name)
			}
		}
		drop = []string{"ALL"}
	}
	add, drop = slices.DeleteFunc(add, h.withholds), slices.DeleteFunc(drop, h.withholds)
	if all && !h.allIsGranted {
		drop = append(drop, h.missing...)
	}
	return add, drop
}

func (h host) withholds(capability string) bool { return slices.Contains(h.missing, capability) }

// plainNames returns the capabilities in upper case and without CAP_.
func plainNames(names []string) []string {
	var plain []string
	for _, name := range names {
		plain = append(plain, strings.TrimPrefix(strings.ToUpper(name), "CAP_"))
	}
	return plain
}

// applyPrivileged makes the container privileged: by Docker's own switch if the host can grant everything that this means, else
// setting by setting.
func applyPrivileged(hc *container.HostConfig, h host) {
	hc.CgroupnsMode = container.CgroupnsModeHost
	if len(h.missing) == 0 {
		hc.Privileged = true
		return
	}
	hc.CapAdd, hc.CapDrop = capabilities(&runtimeapi.Capability{AddCapabilities: []string{"ALL"}}, h)
	hc.SecurityOpt = []string{"seccomp=unconfined", "label=disable"}
	if h.appArmor {
		hc.SecurityOpt = append(hc.SecurityOpt, "apparmor=unconfined")
	}
	hc.MaskedPaths, hc.ReadonlyPaths = []string{}, []string{}
	hc.Devices = append(hc.Devices, h.devices...)
	hc.DeviceCgroupRules = []string{"a *:* rwm"}
	hc.Mounts = append(hc.Mounts, mount.Mount{ // replaces the read-only mount
		Type: mount.TypeBind, Source: "/sys", Target: "/sys",
		BindOptions: &mount.BindOptions{Propagation: mount.PropagationRPrivate},
	})
}

// Privilege gives a container of the minion's own everything that this host can grant, except devices.
func Privilege(hc *container.HostConfig) error {
	h, err := readHost()
	if err != nil {
		return fmt.Errorf("cannot read the capabilities of this host: %w", err)
	}
	h.devices = nil
	applyPrivileged(hc, h)
	return nil
}

// applyNamespaces sets the namespaces of a container in the sandbox, or of the sandbox itself if sandboxID is empty.
func applyNamespaces(hc *container.HostConfig, n *runtimeapi.NamespaceOption, sandboxID string) error {
	if users := n.GetUsernsOptions(); users != nil && users.GetMode() == runtimeapi.NamespaceMode_POD {
		return refuse("a user namespace is requested for the pod, but Docker supports them only for a whole Engine")
	}
	shared := "container:" + sandboxID
	inSandbox := sandboxID != ""
	hc.IpcMode = container.IPCModeShareable
	if inSandbox {
		hc.NetworkMode, hc.IpcMode = container.NetworkMode(shared), container.IpcMode(shared)
	}
	if n.GetNetwork() == runtimeapi.NamespaceMode_NODE {
		// A container on the host network has the host's name, too.
		hc.NetworkMode, hc.UTSMode = "host", "host"
	}
	if n.GetIpc() == runtimeapi.NamespaceMode_NODE {
		hc.IpcMode = container.IPCModeHost
	}
	switch mode := n.GetPid(); {
	case mode == runtimeapi.NamespaceMode_NODE:
		hc.PidMode = "host"
	case mode == runtimeapi.NamespaceMode_POD && inSandbox:
		hc.PidMode = container.PidMode(shared)
	case mode == runtimeapi.NamespaceMode_TARGET && inSandbox:
		if n.GetTargetId() == "" {
			return refuse("PID namespace mode TARGET is requested without a target")
		}
		hc.PidMode = container.PidMode("container:" + n.GetTargetId())
	}
	return nil
}

// applyResources sets the limits that Docker has fields for; cgroupSettings returns the others
// (https://docs.docker.com/engine/containers/resource_constraints/).
func applyResources(r *container.Resources, wanted *runtimeapi.LinuxContainerResources) {
	r.CPUShares, r.CPUPeriod, r.CPUQuota = wanted.GetCpuShares(), wanted.GetCpuPeriod(), wanted.GetCpuQuota()
	r.CpusetCpus, r.CpusetMems = wanted.GetCpusetCpus(), wanted.GetCpusetMems()
	r.Memory, r.MemorySwap = wanted.GetMemoryLimitInBytes(), wanted.GetMemorySwapLimitInBytes()
	if r.MemorySwap == 0 {
		r.MemorySwap = r.Memory // no swap: Docker's default would double the limit
	}
}

// cgroupParent returns the pod's cgroup in the form that the Engine's cgroup driver expects.
func (h host) cgroupParent(parent string) string {
	if h.systemdCgroups {
		return parent[strings.LastIndexByte(parent, '/')+1:]
	}
	if h.cgroup != "" && !strings.HasPrefix(parent, h.cgroup+"/") {
		return path.Join(h.cgroup, parent)
	}
	return parent
}

// refuse returns the error for a request that cannot be fulfilled.
func refuse(format string, args ...any) error { return &refusal{fmt.Sprintf(format, args...)} }

type refusal struct{ reason string }

func (r *refusal) Error() string { return r.reason }
