package cri

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

// Three hosts: one that can give all, and two that hold CAP_SYS_RESOURCE and CAP_MKNOD back, of which one has an Engine that knows it.
var (
	fullHost    = mustHost(0x000001ffffffffff)
	limitedHost = mustHost(0x000001fff6ffffff)
	currentHost = func() host { h := limitedHost; h.allIsGranted = true; return h }()
)

func mustHost(bounding uint64) host {
	h, err := hostOf(bounding, "40\n")
	if err != nil {
		panic(err)
	}
	h.devices = []container.DeviceMapping{{PathOnHost: "/dev/null", PathInContainer: "/dev/null", CgroupPermissions: "rwm"}}
	return h
}

// golden holds what a translation makes of testdata/<name>.in.json to testdata/<name>.<host>.json.
func golden(t *testing.T, path string, c *container.Config, hc *container.HostConfig) {
	t.Helper()
	got, err := json.MarshalIndent(map[string]any{"config": compact(t, c), "hostConfig": compact(t, hc)}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// compact returns v's JSON without the many fields that are left at nothing. An empty list stays: Docker tells it from
// none.
func compact(t *testing.T, v any) map[string]any {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(data, &fields); err != nil {
		t.Fatal(err)
	}
	for key, value := range fields {
		switch value {
		case nil, "", false, 0.0:
			delete(fields, key)
		}
	}
	delete(fields, "ConsoleSize")
	return fields
}

func inputs(t *testing.T, pattern string) map[string][]byte {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("testdata", pattern))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no inputs: %v", err)
	}
	found := map[string][]byte{}
	for _, path := range paths {
		if found[path[:len(path)-len(".in.json")]], err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
	}
	return found
}

func TestContainersBecomeTheseDockerContainers(t *testing.T) {
	sandbox := &sandboxRecord{Metadata: &runtimeapi.PodSandboxMetadata{Name: "web", Namespace: "default", Uid: "1"}, ResolvConf: "/root/pods/1.0/resolv.conf"}
	for name, input := range inputs(t, "container-*.in.json") {
		for kind, h := range map[string]host{"full": fullHost, "limited": limitedHost, "current": currentHost} {
			t.Run(filepath.Base(name)+"/"+kind, func(t *testing.T) {
				config := new(runtimeapi.ContainerConfig)
				if err := protojson.Unmarshal(input, config); err != nil {
					t.Fatal(err)
				}
				c, hc, err := containerPlan{owner: owner{"test", "node-1"}, host: h, sandboxID: "SANDBOX", sandbox: sandbox, logSize: usualLogSize,
					logDir: "/var/log/pods/web", config: config, parent: "/kubepods/pod1"}.translate()
				if err != nil {
					t.Fatal(err)
				}
				golden(t, name+"."+kind+".json", c, hc)
			})
		}
	}
}

func TestSandboxesBecomeTheseDockerContainers(t *testing.T) {
	for name, input := range inputs(t, "sandbox-*.in.json") {
		for kind, h := range map[string]host{"full": fullHost, "limited": limitedHost} {
			t.Run(filepath.Base(name)+"/"+kind, func(t *testing.T) {
				config := new(runtimeapi.PodSandboxConfig)
				if err := protojson.Unmarshal(input, config); err != nil {
					t.Fatal(err)
				}
				c, hc, err := sandboxPlan{owner: owner{"test", "node-1"}, host: h, image: "pause",
					resolvConf: "/root/pods/1.0/resolv.conf", config: config}.translate()
				if err != nil {
					t.Fatal(err)
				}
				golden(t, name+"."+kind+".json", c, hc)
			})
		}
	}
}

func TestWhatDockerCannotDoIsRefused(t *testing.T) {
	for name, input := range map[string]string{
		"user namespace":        `{"linux":{"securityContext":{"namespaceOptions":{"usernsOptions":{"mode":"POD"}}}}}`,
		"ambient capability":    `{"linux":{"securityContext":{"capabilities":{"addAmbientCapabilities":["NET_ADMIN"]}}}}`,
		"group without user":    `{"linux":{"securityContext":{"runAsGroup":{"value":"1"}}}}`,
		"strict without group":  `{"linux":{"securityContext":{"runAsUser":{"value":"1"},"supplementalGroupsPolicy":"Strict"}}}`,
		"missing profile":       `{"linux":{"securityContext":{"seccomp":{"profileType":"Localhost","localhostRef":"/nowhere.json"}}}}`,
		"AppArmor without it":   `{"linux":{"securityContext":{"apparmor":{"profileType":"Localhost","localhostRef":"localhost/x"}}}}`,
		"recursive read-only":   `{"mounts":[{"containerPath":"/a","hostPath":"/b","readonly":true,"recursiveReadOnly":true}]}`,
		"id-mapped mount":       `{"mounts":[{"containerPath":"/a","hostPath":"/b","uidMappings":[{"length":1}]}]}`,
		"CDI device":            `{"CDIDevices":[{"name":"vendor.com/gpu=0"}]}`,
		"cgroup v2 value on v1": `{"linux":{"resources":{"unified":{"memory.high":"1"}}}}`,
		"target without a name": `{"linux":{"securityContext":{"namespaceOptions":{"pid":"TARGET"}}}}`,
	} {
		t.Run(name, func(t *testing.T) {
			config := new(runtimeapi.ContainerConfig)
			if err := protojson.Unmarshal([]byte(input), config); err != nil {
				t.Fatal(err)
			}
			_, _, err := containerPlan{host: fullHost, sandboxID: "SANDBOX", sandbox: &sandboxRecord{}, config: config}.translate()
			if _, refused := err.(*refusal); !refused {
				t.Errorf("translate returned %v; want a refusal", err)
			}
		})
	}
}

func TestVolumesAreRelabelledWhereTheEngineHasSELinux(t *testing.T) {
	config := new(runtimeapi.ContainerConfig)
	if err := protojson.Unmarshal([]byte(`{"mounts":[
		{"containerPath":"/secret","hostPath":"/v/secret","readonly":true,"selinuxRelabel":true},
		{"containerPath":"/data","hostPath":"/v/data","selinuxRelabel":true,"propagation":"PROPAGATION_HOST_TO_CONTAINER"},
		{"containerPath":"/host","hostPath":"/etc"}]}`), config); err != nil {
		t.Fatal(err)
	}
	for selinux, want := range map[bool][]string{false: nil, true: {"/v/secret:/secret:Z,rprivate,ro", "/v/data:/data:Z,rslave"}} {
		h := fullHost
		h.selinux = selinux
		_, hc, err := containerPlan{host: h, sandboxID: "SANDBOX", sandbox: &sandboxRecord{}, config: config}.translate()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, hc.Binds); diff != "" || len(hc.Mounts)+len(hc.Binds) != 3 {
			t.Errorf("with SELinux %t: %d mounts and %s", selinux, len(hc.Mounts), diff)
		}
	}
}

func TestAppArmorProfileThatIsNotLoadedIsRefusedWithWhatToDo(t *testing.T) {
	want := profiles{appArmor: &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "localhost/strict"}}
	for list, refused := range map[string]bool{"": false, "docker-default (enforce)\nstrict (complain)\n": false, "strict-not (enforce)\nnot-strict (enforce)\n": true} {
		opts, err := want.securityOpts(host{appArmor: true, appArmorProfiles: list})
		if (err != nil) != refused || refused && !strings.Contains(err.Error(), "apparmor_parser") || !refused && !slices.Contains(opts, "apparmor=strict") {
			t.Errorf("with the profiles %q: %v, %v", list, opts, err)
		}
	}
}

func TestResolvConfIsTheKubeletsOrElseTheHosts(t *testing.T) {
	text, ok := resolvConf(&runtimeapi.DNSConfig{Servers: []string{"10.0.0.10", "10.0.0.11"}, Searches: []string{"a", "b"}, Options: []string{"ndots:5"}})
	if want := "search a b\nnameserver 10.0.0.10\nnameserver 10.0.0.11\noptions ndots:5\n"; !ok || text != want {
		t.Errorf("resolvConf returned %q, %v", text, ok)
	}
	if text, ok := resolvConf(nil); ok {
		t.Errorf("resolvConf of nothing returned %q", text)
	}
}

func TestSignalsKeepTheirNamesBothWays(t *testing.T) {
	for _, s := range []runtimeapi.Signal{runtimeapi.Signal_SIGTERM, runtimeapi.Signal_SIGUSR1, runtimeapi.Signal_SIGRTMINPLUS3, runtimeapi.Signal_SIGRTMAXMINUS14} {
		if got := signalOf(signalName(s)); got != s {
			t.Errorf("%v becomes %q becomes %v", s, signalName(s), got)
		}
	}
}

func TestStatusOfAContainerThatCouldNotStart(t *testing.T) {
	c := container.InspectResponse{
		ContainerJSONBase: &container.ContainerJSONBase{Created: "2026-01-02T03:04:05.000000006Z", HostConfig: &container.HostConfig{},
			State: &container.State{Status: container.StateCreated, Error: "no such file", ExitCode: 127, StartedAt: "0001-01-01T00:00:00Z"}},
		Config: &container.Config{Labels: map[string]string{labelRecord: "{}"}},
	}
	status, err := translateStatus(c)
	if err != nil {
		t.Fatal(err)
	}
	if status.State != runtimeapi.ContainerState_CONTAINER_EXITED || status.Reason != "ContainerCannotRun" ||
		status.ExitCode != 127 || status.Message != "no such file" {
		t.Errorf("status %v", status)
	}
}

func TestContainersAreBelowTheCgroupThatContainsThemAll(t *testing.T) {
	for parent, want := range map[string]string{"": "/mesos/ID", "/kubepods/pod1": "/mesos/ID/kubepods/pod1", "/mesos/ID/node/pod1": "/mesos/ID/node/pod1"} {
		h := fullHost
		h.cgroup = "/mesos/ID"
		_, hc, err := containerPlan{owner: owner{"test", "node-1"}, host: h, sandbox: new(sandboxRecord), config: new(runtimeapi.ContainerConfig), parent: parent}.translate()
		if err != nil || hc.CgroupParent != want {
			t.Errorf("the container of %q is below %q, %v; want %q", parent, hc.CgroupParent, err, want)
		}
		config := &runtimeapi.PodSandboxConfig{Linux: &runtimeapi.LinuxPodSandboxConfig{CgroupParent: parent}}
		if _, hc, err = (sandboxPlan{owner: owner{"test", "node-1"}, host: h, config: config}).translate(); err != nil || hc.CgroupParent != want {
			t.Errorf("the sandbox of %q is below %q, %v; want %q", parent, hc.CgroupParent, err, want)
		}
	}
}
