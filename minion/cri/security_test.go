package cri

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
	logrustest "github.com/sirupsen/logrus/hooks/test"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// noMkdir is a seccomp profile that allows all but making directories (https://docs.docker.com/engine/security/seccomp/).
const noMkdir = `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}`

func TestSecurityContextIsWhatTheKernelHoldsTheContainerTo(t *testing.T) {
	n := newNode(t)
	config := n.podConfig("secure")
	config.Linux.Sysctls = map[string]string{"net.ipv4.ip_local_port_range": "20000 20100"}
	config.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
	pod := n.runPod(t, config)
	profile := filepath.Join(n.root, "no-mkdir.json")
	must(t, os.WriteFile(profile, []byte(noMkdir), 0o600))
	for name, c := range securityCases(profile) {
		t.Run(name, func(t *testing.T) {
			main := shell(strings.NewReplacer(" ", "-", "'", "").Replace(name), "exec 2>&1; "+c.script)
			c.set(main.Linux.SecurityContext)
			ended := n.waitExited(t, n.runContainer(t, pod, config, main))
			if got := strings.Join(logLines(t, ended.LogPath), "\n"); !strings.Contains(got, c.want) {
				t.Errorf("the container writes %q; want %q in it", got, c.want)
			}
		})
	}
}

// securityCase is a command that shows whether what set asks for holds.
type securityCase struct {
	script string
	set    func(*runtimeapi.LinuxContainerSecurityContext)
	want   string
}

// securityCases are those of a pod whose processes share a namespace. The profile is one of seccomp that refuses mkdir.
func securityCases(profile string) map[string]securityCase {
	seccomp := func(kind runtimeapi.SecurityProfile_ProfileType, ref string) *runtimeapi.SecurityProfile {
		return &runtimeapi.SecurityProfile{ProfileType: kind, LocalhostRef: ref}
	}
	return map[string]securityCase{
		"seccomp default": {"grep Seccomp: /proc/self/status", func(sc *runtimeapi.LinuxContainerSecurityContext) {
			sc.Seccomp = seccomp(runtimeapi.SecurityProfile_RuntimeDefault, "")
		}, "Seccomp:\t2"},
		"seccomp unconfined": {"grep Seccomp: /proc/self/status", func(sc *runtimeapi.LinuxContainerSecurityContext) {
			sc.Seccomp = seccomp(runtimeapi.SecurityProfile_Unconfined, "")
		}, "Seccomp:\t0"},
		"seccomp localhost": {"mkdir /tmp/new 2>&1", func(sc *runtimeapi.LinuxContainerSecurityContext) {
			sc.Seccomp = seccomp(runtimeapi.SecurityProfile_Localhost, profile)
		}, "Operation not permitted"},
		"no new privileges": {"grep NoNewPrivs /proc/self/status", func(sc *runtimeapi.LinuxContainerSecurityContext) { sc.NoNewPrivs = true }, "NoNewPrivs:\t1"},
		"user and groups": {"id", func(sc *runtimeapi.LinuxContainerSecurityContext) {
			sc.RunAsUser, sc.RunAsGroup = &runtimeapi.Int64Value{Value: 1000}, &runtimeapi.Int64Value{Value: 2000}
			sc.SupplementalGroups = []int64{3000}
		}, "uid=1000(web) gid=2000 groups=2000,3000"},
		"user with the image's groups": {"echo $(id -G)", func(sc *runtimeapi.LinuxContainerSecurityContext) {
			sc.RunAsUser, sc.SupplementalGroups = &runtimeapi.Int64Value{Value: 1000}, []int64{3000}
		}, "1000 3000 5000"},
		"user without the image's groups": {"echo $(id -G)", func(sc *runtimeapi.LinuxContainerSecurityContext) {
			sc.RunAsUser, sc.RunAsGroup = &runtimeapi.Int64Value{Value: 1000}, &runtimeapi.Int64Value{Value: 1000}
			sc.SupplementalGroupsPolicy = runtimeapi.SupplementalGroupsPolicy_Strict
		}, "stdout F 1000"},
		"user by name": {"id -u", func(sc *runtimeapi.LinuxContainerSecurityContext) { sc.RunAsUsername = "web" }, "1000"},
		"capabilities dropped": {"grep CapBnd /proc/self/status", func(sc *runtimeapi.LinuxContainerSecurityContext) {
			sc.Capabilities = &runtimeapi.Capability{DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"NET_ADMIN"}}
		}, "CapBnd:\t0000000000001000"},
		"read-only root": {"echo x 2>&1 > /new", func(sc *runtimeapi.LinuxContainerSecurityContext) { sc.ReadonlyRootfs = true }, "Read-only file system"},
		"masked path": {"wc -c < /proc/version", func(sc *runtimeapi.LinuxContainerSecurityContext) {
			sc.MaskedPaths = []string{"/proc/version"}
		}, "0"},
		"read-only path": {"echo 1 2>&1 > /proc/sys/net/ipv4/ip_forward", func(sc *runtimeapi.LinuxContainerSecurityContext) {
			sc.ReadonlyPaths = []string{"/proc/sys"}
		}, "Read-only file system"},
		"shared process namespace": {"cat /proc/1/comm", func(sc *runtimeapi.LinuxContainerSecurityContext) {
			sc.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
		}, "pause"},
		"sysctl of the pod": {"cat /proc/sys/net/ipv4/ip_local_port_range", func(*runtimeapi.LinuxContainerSecurityContext) {}, "20000\t20100"},
	}
}

func TestHugePagesAreRefusedOnAHostThatCannotLimitThem(t *testing.T) {
	n := newNode(t)
	if exists(filepath.Join(cgroupRoot, "hugetlb")) || exists(filepath.Join(cgroupRoot, "cgroup.controllers")) {
		t.Skip("this host can limit huge pages")
	}
	config := n.podConfig("huge")
	pod := n.runPod(t, config)
	main := shell("main", "sleep 1000")
	limit := &runtimeapi.HugepageLimit{PageSize: "2MB"} // none, as the kubelet asks for each container without huge pages
	main.Linux.Resources = &runtimeapi.LinuxContainerResources{HugepageLimits: []*runtimeapi.HugepageLimit{limit}}
	n.runContainer(t, pod, config, main)

	limit.Limit = 4 << 20
	main.Metadata.Name = "huge"
	made, err := n.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: pod, Config: main, SandboxConfig: config})
	must(t, err)
	_, err = n.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: made.ContainerId})
	if err == nil || !strings.Contains(err.Error(), "cannot set hugetlb.2MB.limit_in_bytes to 4194304") {
		t.Errorf("StartContainer returned %v", err)
	}
	if got := n.waitExited(t, made.ContainerId); got.State != runtimeapi.ContainerState_CONTAINER_EXITED {
		t.Errorf("it runs on without its limit: %v", got)
	}
}

func TestWhatTheHostWithholdsIsSaidOnceForAllContainers(t *testing.T) {
	n := newNode(t)
	h, err := readHost()
	must(t, err)
	if h.limits() == "" {
		t.Skip("this host withholds nothing")
	}
	log, said := logrustest.NewNullLogger()
	n.restart(t, func(c *Config) { c.Log = log })
	config := n.podConfig("clamped")
	pod := n.runPod(t, config) // a sandbox asks for a negative oom_score_adj
	for _, name := range []string{"one", "two"} {
		main := shell(name, "cat /proc/self/oom_score_adj")
		main.Linux.Resources = &runtimeapi.LinuxContainerResources{OomScoreAdj: -997}
		ended := n.waitExited(t, n.runContainer(t, pod, config, main))
		if got := logLines(t, ended.LogPath); !slices.Equal(got, []string{"stdout F 0"}) {
			t.Errorf("oom_score_adj of the container: %q", got)
		}
	}
	var times int
	for _, entry := range said.AllEntries() {
		if entry.Level == logrus.WarnLevel && strings.Contains(entry.Message, "negative oom_score_adj") {
			times++
		}
	}
	if times != 1 {
		t.Errorf("said %d times", times)
	}
}

func TestAppArmorProfileIsRefusedOnAHostWithoutAppArmor(t *testing.T) {
	n := newNode(t)
	if h, err := readHost(); err != nil || h.appArmor {
		t.Skipf("this host has AppArmor (%v)", err)
	}
	config := n.podConfig("apparmor")
	pod := n.runPod(t, config)
	main := shell("main", "true")
	main.Linux.SecurityContext.Apparmor = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "strict"}
	_, err := n.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: pod, Config: main, SandboxConfig: config})
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), `AppArmor profile "strict" is requested, but this host has no AppArmor`) {
		t.Errorf("CreateContainer returned %v", err)
	}
	if left := n.containers(t); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	// The runtime's default, where there is no AppArmor, is none: a pod that asks for it runs.
	main.Linux.SecurityContext.Apparmor.ProfileType = runtimeapi.SecurityProfile_RuntimeDefault
	if ended := n.waitExited(t, n.runContainer(t, pod, config, main)); ended.ExitCode != 0 {
		t.Errorf("with the default profile it ended with %d", ended.ExitCode)
	}
}
