package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/client"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// criRunner asks a CRI server as the kubelet does. A pod's container is stopped and removed before its sandbox, and the
// container ends by itself when it is asked to.
func criRunner(name string, r runtimeapi.RuntimeServiceClient, dir string) podRunner {
	pods := podConfigs{dir: filepath.Join(dir, name)}
	return podRunner{name, slices.Concat(criStart(r, pods), criLook(r), criStop(r))}
}

func criStart(r runtimeapi.RuntimeServiceClient, pods podConfigs) []call {
	return []call{
		{"RunPodSandbox", func(ctx context.Context, p *podLife) error {
			made, err := r.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: pods.sandbox(p)})
			p.sandbox = made.GetPodSandboxId()
			return err
		}},
		{"CreateContainer", func(ctx context.Context, p *podLife) error {
			if err := os.MkdirAll(filepath.Join(pods.logs(p), "web"), 0o755); err != nil { // the kubelet does that
				return err
			}
			made, err := r.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{
				PodSandboxId: p.sandbox, Config: pods.container(p), SandboxConfig: pods.sandbox(p)})
			p.container = made.GetContainerId()
			return err
		}},
		{"StartContainer", func(ctx context.Context, p *podLife) error {
			_, err := r.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: p.container})
			return err
		}},
	}
}

func criLook(r runtimeapi.RuntimeServiceClient) []call {
	return []call{
		{"PodSandboxStatus", func(ctx context.Context, p *podLife) error {
			got, err := r.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.sandbox})
			if err == nil && got.Status.GetNetwork().GetIp() == "" {
				err = fmt.Errorf("the sandbox has no address: %v", got)
			}
			return err
		}},
		{"ContainerStatus", func(ctx context.Context, p *podLife) error {
			got, err := r.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: p.container})
			if err == nil && got.Status.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
				err = fmt.Errorf("the container does not run: %v", got)
			}
			return err
		}},
		{"ListContainers", func(ctx context.Context, p *podLife) error {
			got, err := r.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
			return checkList(len(got.GetContainers()), listSandboxes*listSize+1, err)
		}},
		{"ListPodSandbox", func(ctx context.Context, p *podLife) error {
			got, err := r.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
			return checkList(len(got.GetItems()), listSandboxes+1, err)
		}},
	}
}

func criStop(r runtimeapi.RuntimeServiceClient) []call {
	return []call{
		{"StopContainer", func(ctx context.Context, p *podLife) error {
			_, err := r.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: p.container, Timeout: 30})
			return err
		}},
		{"StopPodSandbox", func(ctx context.Context, p *podLife) error {
			_, err := r.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.sandbox})
			return err
		}},
		{"RemoveContainer", func(ctx context.Context, p *podLife) error {
			_, err := r.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: p.container})
			return err
		}},
		{"RemovePodSandbox", func(ctx context.Context, p *podLife) error {
			_, err := r.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.sandbox})
			return err
		}},
	}
}

// checkList reports whether a list that was asked for holds what runs. Before the first round the lists are being filled.
func checkList(got, want int, err error) error {
	if err == nil && got != want {
		return fmt.Errorf("the list has %d items, not %d", got, want)
	}
	return err
}

// podConfigs are what the kubelet asks for a small pod with a token and a cluster's DNS.
type podConfigs struct{ dir string }

func (c podConfigs) logs(p *podLife) string { return filepath.Join(c.dir, "logs", p.name()) }

func (c podConfigs) labels(p *podLife) map[string]string {
	return map[string]string{
		"app": "bench", "io.kubernetes.pod.name": p.name(), "io.kubernetes.pod.namespace": "bench", "io.kubernetes.pod.uid": p.name(),
	}
}

func (c podConfigs) sandbox(p *podLife) *runtimeapi.PodSandboxConfig {
	return &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: p.name(), Namespace: "bench", Uid: p.name()},
		Hostname: p.name(), LogDirectory: c.logs(p), Labels: c.labels(p),
		Annotations: map[string]string{"kubernetes.io/config.source": "api", "kubernetes.io/config.seen": "2026-01-01T00:00:00Z"},
		DnsConfig: &runtimeapi.DNSConfig{
			Servers: []string{"10.96.0.10"}, Searches: []string{"bench.svc.cluster.local", "svc.cluster.local", "cluster.local"},
			Options: []string{"ndots:5"},
		},
		Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
			NamespaceOptions: namespaces(), Seccomp: unconfined(),
		}},
	}
}

func (c podConfigs) container(p *podLife) *runtimeapi.ContainerConfig {
	labels := c.labels(p)
	labels["io.kubernetes.container.name"] = "web"
	config := &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "web-" + fmt.Sprint(p.number)}, Image: &runtimeapi.ImageSpec{Image: benchImage},
		LogPath: "web/0.log", Labels: labels,
		Annotations: map[string]string{
			"io.kubernetes.container.hash": "5d2a3bb8", "io.kubernetes.container.restartCount": "0",
			"io.kubernetes.container.terminationMessagePath":   "/dev/termination-log",
			"io.kubernetes.container.terminationMessagePolicy": "File", "io.kubernetes.pod.terminationGracePeriod": "30",
		},
		Mounts: []*runtimeapi.Mount{
			{HostPath: filepath.Join(c.dir, "token"), ContainerPath: "/var/run/secrets/kubernetes.io/serviceaccount", Readonly: true},
			{HostPath: filepath.Join(c.dir, "hosts"), ContainerPath: "/etc/hosts"},
			{HostPath: filepath.Join(c.dir, "message"), ContainerPath: "/dev/termination-log"},
		},
		Linux: &runtimeapi.LinuxContainerConfig{
			Resources: &runtimeapi.LinuxContainerResources{CpuShares: 102, CpuPeriod: 100_000, MemoryLimitInBytes: 64 << 20, OomScoreAdj: 900},
			SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
				NamespaceOptions: namespaces(), Seccomp: unconfined(), Capabilities: &runtimeapi.Capability{},
				MaskedPaths: []string{"/proc/kcore", "/proc/keys", "/sys/firmware"}, ReadonlyPaths: []string{"/proc/bus", "/proc/irq", "/proc/sys"},
			},
		},
	}
	for _, name := range []string{"KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT", "KUBERNETES_PORT", "KUBERNETES_PORT_443_TCP"} {
		config.Envs = append(config.Envs, &runtimeapi.KeyValue{Key: name, Value: []byte("10.96.0.1")})
	}
	return config
}

func namespaces() *runtimeapi.NamespaceOption {
	return &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}
}

// unconfined is the kubelet's own default.
func unconfined() *runtimeapi.SecurityProfile {
	return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
}

// bareRunner makes the calls of the Engine without which the same result cannot be had.
func bareRunner(docker *client.Client, sandboxImage string) podRunner {
	create := func(ctx context.Context, image, name, networkMode, ipc string) (string, error) {
		made, err := docker.ContainerCreate(ctx, &container.Config{Image: image}, &container.HostConfig{
			NetworkMode: container.NetworkMode(networkMode), IpcMode: container.IpcMode(ipc), SecurityOpt: []string{"seccomp=unconfined"},
		}, &network.NetworkingConfig{}, nil, name)
		return made.ID, err
	}
	list := func(kind string) func(context.Context, *podLife) error {
		return func(ctx context.Context, _ *podLife) error {
			_, err := docker.ContainerList(ctx, container.ListOptions{All: true, Filters: filters.NewArgs(filters.Arg("label", "io.k8sm.kind="+kind))})
			return err
		}
	}
	inspect := func(id func(*podLife) string) func(context.Context, *podLife) error {
		return func(ctx context.Context, p *podLife) error {
			_, err := docker.ContainerInspect(ctx, id(p))
			return err
		}
	}
	stop := func(id func(*podLife) string) func(context.Context, *podLife) error {
		return func(ctx context.Context, p *podLife) error {
			return docker.ContainerStop(ctx, id(p), container.StopOptions{})
		}
	}
	remove := func(id func(*podLife) string) func(context.Context, *podLife) error {
		return func(ctx context.Context, p *podLife) error {
			return docker.ContainerRemove(ctx, id(p), container.RemoveOptions{Force: true})
		}
	}
	sandbox, main := func(p *podLife) string { return p.sandbox }, func(p *podLife) string { return p.container }
	return podRunner{"bare_calls", []call{
		{"RunPodSandbox", func(ctx context.Context, p *podLife) (err error) {
			if p.sandbox, err = create(ctx, sandboxImage, p.name()+"-sandbox", "bridge", "shareable"); err != nil {
				return err
			}
			return docker.ContainerStart(ctx, p.sandbox, container.StartOptions{})
		}},
		{"CreateContainer", func(ctx context.Context, p *podLife) (err error) {
			p.container, err = create(ctx, benchImage, p.name(), "container:"+p.sandbox, "container:"+p.sandbox)
			return err
		}},
		{"StartContainer", func(ctx context.Context, p *podLife) error {
			return docker.ContainerStart(ctx, p.container, container.StartOptions{})
		}},
		{"PodSandboxStatus", inspect(sandbox)},
		{"ContainerStatus", inspect(main)},
		{"ListContainers", list("container")},
		{"ListPodSandbox", list("sandbox")},
		{"StopContainer", stop(main)},
		{"StopPodSandbox", stop(sandbox)},
		{"RemoveContainer", remove(main)},
		{"RemovePodSandbox", remove(sandbox)},
	}}
}

// withoutNegativeOOMScore is a runtime for Docker Engine on a host where no process may be protected from the OOM killer:
// it lowers what cri-dockerd asks for each sandbox (-998) to what the host can give, and hands over to runc.
func withoutNegativeOOMScore() string {
	return strings.Join([]string{
		"#!/bin/sh", "before=", `for word; do`, `	[ "$before" = --bundle ] && sed -i 's/"oomScoreAdj":-[0-9]*/"oomScoreAdj":0/' "$word/config.json"`,
		"	before=$word", "done", `exec runc "$@"`, "",
	}, "\n")
}
