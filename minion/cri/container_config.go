package cri

import (
	"path/filepath"
	"strconv"
	"strings"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// usualLogSize is the kubelet's default for a container's log: 5 files (containerLogMaxFiles) of 10 MiB (containerLogMaxSize).
const usualLogSize = 50 << 20

// engineLog configures the Engine's own log of a container, with at most size bytes. It is a buffer between the container and the
// log in CRI's format (logs.go), in case this server is down or the container writes faster than the Engine's log can be read. More
// than the kubelet keeps would be useless, and it counts as the container's disk usage. There are two files, so at least the newest
// half remains: Docker follows a log from the file that it is reading straight to the newest one and skips those between. The
// "local" driver takes half the space of "json-file", and half the time.
func engineLog(size int64) container.LogConfig {
	return container.LogConfig{Type: "local", Config: map[string]string{
		"max-size": strconv.FormatInt(size/2, 10), "max-file": "2", "compress": "false",
	}}
}

// engineLogFiles returns a glob pattern for the files of the Engine's own log of a container, current and rotated.
func engineLogFiles(dockerRoot, id string) string {
	return filepath.Join(dockerRoot, "containers", id, "local-logs", "container.log*")
}

// containerPlan is the input for the translation of one container.
type containerPlan struct {
	owner     owner
	host      host
	sandboxID string
	sandbox   *sandboxRecord
	logDir    string // the pod's log directory
	logSize   int64  // limit for the Engine's own log
	config    *runtimeapi.ContainerConfig
	parent    string            // the pod's cgroup
	volumes   map[string]string // directories of image volumes, by the mount's path in the container
}

// translate returns the Docker container's configuration.
func (p containerPlan) translate() (*container.Config, *container.HostConfig, error) {
	if len(p.config.GetCDIDevices()) > 0 {
		return nil, nil, refuse("CDI devices are requested, but only Docker Engine 25 and later support them")
	}
	linux := p.config.GetLinux()
	sc := linux.GetSecurityContext()
	c, err := p.process()
	if err != nil {
		return nil, nil, err
	}
	var groups []string
	if c.User, groups, err = userAndGroups(sc); err != nil {
		return nil, nil, err
	}
	hc := &container.HostConfig{
		GroupAdd:    groups,
		LogConfig:   engineLog(p.logSize),
		OomScoreAdj: p.host.oomScore(linux.GetResources().GetOomScoreAdj()),
		Runtime:     p.sandbox.Handler,
	}
	applyResources(&hc.Resources, linux.GetResources())
	hc.CgroupParent = p.host.cgroupParent(p.parent)
	for _, d := range p.config.GetDevices() {
		hc.Devices = append(hc.Devices, container.DeviceMapping{
			PathOnHost: d.GetHostPath(), PathInContainer: d.GetContainerPath(), CgroupPermissions: d.GetPermissions()})
	}
	if err := p.mounts(hc); err != nil {
		return nil, nil, err
	}
	if err := applyNamespaces(hc, sc.GetNamespaceOptions(), p.sandboxID); err != nil {
		return nil, nil, err
	}
	return c, hc, applySecurity(hc, sc, p.host)
}

// process translates the command, environment and labels.
func (p containerPlan) process() (*container.Config, error) {
	config := p.config
	record := containerRecord{
		Metadata: config.GetMetadata(), Labels: config.GetLabels(), Annotations: config.GetAnnotations(),
		Image: config.GetImage(), Mounts: config.GetMounts(),
	}
	if config.GetLogPath() != "" && p.logDir != "" {
		record.LogPath = filepath.Join(p.logDir, config.GetLogPath())
	}
	var err error
	if record.Cgroup, err = cgroupSettings(config.GetLinux().GetResources(), p.host.cgroup2); err != nil {
		return nil, err
	}
	labels, err := p.owner.labels(kindContainer, config.GetLabels(), record)
	if err != nil {
		return nil, err
	}
	labels[labelSandbox] = p.sandboxID
	c := &container.Config{
		Image:       config.GetImage().GetImage(),
		Entrypoint:  config.GetCommand(),
		Cmd:         config.GetArgs(),
		WorkingDir:  config.GetWorkingDir(),
		Labels:      labels,
		OpenStdin:   config.GetStdin(),
		StdinOnce:   config.GetStdinOnce(),
		Tty:         config.GetTty(),
		StopSignal:  signalName(config.GetStopSignal()),
		Healthcheck: &container.HealthConfig{Test: []string{"NONE"}}, // the kubelet's probes replace the image's health check
	}
	for _, env := range config.GetEnvs() {
		c.Env = append(c.Env, env.GetKey()+"="+string(env.GetValue()))
	}
	return c, nil
}

// mounts translates the volumes, and adds the pod's resolv.conf: Docker's own would name Docker's resolver.
func (p containerPlan) mounts(hc *container.HostConfig) error {
	ownResolvConf := true
	for _, m := range p.config.GetMounts() {
		translated, err := p.bindMount(m)
		if err != nil {
			return err
		}
		if filepath.Clean(m.GetContainerPath()) == "/etc/resolv.conf" {
			ownResolvConf = false
		}
		if p.host.selinux && m.GetSelinuxRelabel() {
			hc.Binds = append(hc.Binds, relabelled(translated))
			continue
		}
		hc.Mounts = append(hc.Mounts, translated)
	}
	if ownResolvConf && p.sandbox.ResolvConf != "" {
		hc.Mounts = append(hc.Mounts, mount.Mount{
			Type: mount.TypeBind, Source: p.sandbox.ResolvConf, Target: "/etc/resolv.conf",
			ReadOnly:    p.config.GetLinux().GetSecurityContext().GetReadonlyRootfs(),
			BindOptions: &mount.BindOptions{Propagation: mount.PropagationRPrivate},
		})
	}
	return nil
}

// relabelled writes a mount in Docker's older syntax, the only one that can request SELinux relabelling. All containers of the pod
// share the label (https://docs.docker.com/engine/storage/bind-mounts/#configure-the-selinux-label).
func relabelled(m mount.Mount) string {
	options := []string{"Z", string(m.BindOptions.Propagation)}
	if m.ReadOnly {
		options = append(options, "ro")
	}
	return m.Source + ":" + m.Target + ":" + strings.Join(options, ",")
}

// bindMount translates one mount. A read-only mount does not affect the mounts below it, unless the pod requests recursion
// (https://kubernetes.io/docs/concepts/storage/volumes/#read-only-mounts).
func (p containerPlan) bindMount(m *runtimeapi.Mount) (mount.Mount, error) {
	switch {
	case m.GetImage() != nil:
		return mount.Mount{
			Type: mount.TypeBind, Source: p.volumes[m.GetContainerPath()], Target: m.GetContainerPath(), ReadOnly: true,
			BindOptions: &mount.BindOptions{Propagation: mount.PropagationRPrivate, ReadOnlyNonRecursive: true},
		}, nil
	case len(m.GetUidMappings())+len(m.GetGidMappings()) > 0:
		return mount.Mount{}, refuse("the mount at %s maps user ids, which Docker does not support", m.GetContainerPath())
	case m.GetRecursiveReadOnly():
		return mount.Mount{}, refuse("the mount at %s requests recursive read-only, which only Docker Engine 25 and later support", m.GetContainerPath())
	}
	options := &mount.BindOptions{Propagation: mount.PropagationRPrivate, ReadOnlyNonRecursive: m.GetReadonly()}
	switch m.GetPropagation() {
	case runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER:
		options.Propagation = mount.PropagationRSlave
	case runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL:
		options.Propagation = mount.PropagationRShared
	}
	return mount.Mount{
		Type: mount.TypeBind, Source: m.GetHostPath(), Target: m.GetContainerPath(), ReadOnly: m.GetReadonly(), BindOptions: options,
	}, nil
}

// signalName returns Docker's name for the signal; empty means the image's own.
func signalName(s runtimeapi.Signal) string {
	if s == runtimeapi.Signal_RUNTIME_DEFAULT {
		return ""
	}
	return strings.NewReplacer("PLUS", "+", "MINUS", "-").Replace(s.String())
}

// signalOf is the inverse of signalName; Docker's default is SIGTERM.
func signalOf(name string) runtimeapi.Signal {
	if name == "" {
		return runtimeapi.Signal_SIGTERM
	}
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	name = strings.NewReplacer("+", "PLUS", "-", "MINUS").Replace(name)
	return runtimeapi.Signal(runtimeapi.Signal_value[name])
}
