package cri

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
	dockernetwork "github.com/docker/docker/api/types/network"
	"golang.org/x/sync/errgroup"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/k8sm/k8sm/api/podtrace"
	"github.com/k8sm/k8sm/minion/network"
)

// RunPodSandbox creates and starts the container that holds the pod's namespaces. If it fails, it leaves nothing behind as long as
// the Engine answers.
func (s *Server) RunPodSandbox(ctx context.Context, r *runtimeapi.RunPodSandboxRequest) (_ *runtimeapi.RunPodSandboxResponse, err error) {
	config := r.GetConfig()
	if config.GetMetadata() == nil {
		return nil, refuse("the request must have metadata")
	}
	plan := s.planSandbox(config, r.GetRuntimeHandler())
	ownNetwork := config.GetLinux().GetSecurityContext().GetNamespaceOptions().GetNetwork() != runtimeapi.NamespaceMode_NODE
	var ports []network.Port
	var address netip.Addr
	if ownNetwork {
		if err := s.cfg.Network.Ready(); err != nil {
			return nil, fmt.Errorf("cannot assign an address to the pod: %w", err)
		}
		if ports, err = hostPorts(config); err != nil {
			return nil, err
		}
		if address, err = assignedAddress(config); err != nil {
			return nil, err
		}
	}
	name := sandboxName(config.GetMetadata())
	defer s.view.hide(name)()
	id, err := s.startSandbox(ctx, name, plan)
	if err == nil && ownNetwork {
		err = s.join(ctx, config, network.Sandbox{ID: id, Ports: ports, Address: address})
	}
	if err != nil && id != "" {
		return nil, errors.Join(fmt.Errorf("cannot start the sandbox: %w", err), s.discardSandbox(ctx, id, plan.resolvConf))
	}
	if err != nil {
		return nil, err
	}
	return &runtimeapi.RunPodSandboxResponse{PodSandboxId: id}, nil
}

// planSandbox returns the plan of a pod's sandbox.
func (s *Server) planSandbox(config *runtimeapi.PodSandboxConfig, handler string) sandboxPlan {
	pod := fmt.Sprintf("%s.%d", config.GetMetadata().GetUid(), config.GetMetadata().GetAttempt())
	return sandboxPlan{
		owner: s.owner, host: s.host, image: s.sandboxImage, handler: handler, config: config,
		resolvConf: filepath.Join(s.cfg.Root, "pods", pod, "resolv.conf"),
	}
}

// startSandbox takes the sandbox that was made ahead, or makes it now. With an error it may return an id: then there is a container.
func (s *Server) startSandbox(ctx context.Context, name string, plan sandboxPlan) (id string, err error) {
	c, hc, err := plan.translate()
	if err != nil {
		return "", err
	}
	if id, err = s.takeAhead(ctx, name, plan); err != nil {
		return "", err
	}
	runs := id != ""
	if !runs {
		if id, err = s.create(ctx, name, c, hc); err != nil {
			return "", fmt.Errorf("cannot create the sandbox: %w", err)
		}
	}
	if err := writeResolvConf(plan.resolvConf, plan.config.GetDnsConfig()); err != nil || runs {
		return id, err
	}
	return id, s.start(ctx, id, c.Labels)
}

// join attaches a running sandbox to the pod network.
func (s *Server) join(ctx context.Context, config *runtimeapi.PodSandboxConfig, sandbox network.Sandbox) error {
	c, err := s.view.inspectNow(ctx, kindSandbox, sandbox.ID)
	if err != nil {
		return err
	}
	if !c.State.Running {
		return fmt.Errorf("the sandbox's program has exited: %s (exit code %d)", c.State.Error, c.State.ExitCode)
	}
	pod := config.GetMetadata()
	sandbox.Pod, sandbox.UID, sandbox.Namespace = pod.GetNamespace()+"/"+pod.GetName(), pod.GetUid(), networkNamespace(c.State.Pid)
	sandbox.Labels, sandbox.Annotations = config.GetLabels(), config.GetAnnotations()
	end := s.traceStep(c.Config.Labels, podtrace.Network, "attach the pod")
	_, err = s.cfg.Network.Attach(ctx, sandbox)
	end(err)
	return err
}

func networkNamespace(pid int) string { return fmt.Sprintf("/proc/%d/ns/net", pid) }

// discardSandbox removes a sandbox that failed to start, and its files. If it cannot be removed, the files stay: the Engine may have
// started it without reporting so, and then the kubelet takes it over.
func (s *Server) discardSandbox(ctx context.Context, id, resolvConf string) error {
	if err := s.discard(ctx, id); err != nil && !isNotFound(err) {
		return fmt.Errorf("cannot remove the sandbox: %w", err)
	}
	if err := s.cfg.Network.Detach(context.WithoutCancel(ctx), id); err != nil {
		return err
	}
	return os.RemoveAll(filepath.Dir(resolvConf))
}

// create creates a Docker container. If one of ours that never ran has the name, an earlier caller was interrupted before it got the
// id: create removes that container, so that nothing starts twice.
func (s *Server) create(ctx context.Context, name string, c *container.Config, hc *container.HostConfig) (id string, err error) {
	if id, err = s.createNew(ctx, name, c, hc); !cerrdefs.IsConflict(err) {
		return id, err
	}
	left, inspectErr := s.docker.ContainerInspect(ctx, name)
	if inspectErr != nil || !s.owner.owns(left.Config.Labels) || left.State.Status != container.StateCreated {
		return "", err
	}
	if err := s.forceRemove(ctx, left.ID); err != nil {
		return "", err
	}
	return s.createNew(ctx, name, c, hc)
}

// createNew creates a Docker container under a name that none has.
func (s *Server) createNew(ctx context.Context, name string, c *container.Config, hc *container.HostConfig) (id string, err error) {
	end := s.traceStep(c.Labels, podtrace.Engine, "create")
	made, err := s.docker.ContainerCreate(ctx, c, hc, &dockernetwork.NetworkingConfig{}, nil, name)
	end(err)
	if err == nil {
		s.view.changed(made.ID, c.Labels, events.ActionCreate)
	}
	return made.ID, err
}

// start starts a container that has these labels, in its turn.
func (s *Server) start(ctx context.Context, id string, labels map[string]string) error {
	began := time.Now()
	release, err := s.turns.take(ctx, labels[labelKind])
	if now := time.Now(); now.Sub(began) > time.Millisecond {
		s.cfg.Traces.Add(podOf(labels), podtrace.Span{Who: podtrace.Runtime, What: podtrace.Turn, Begin: began, End: now, Failed: err != nil})
	}
	if err != nil {
		return err
	}
	defer release()
	defer s.view.started(id)
	end := s.traceStep(labels, podtrace.Engine, "start")
	err = s.docker.ContainerStart(ctx, id, container.StartOptions{})
	end(err)
	return err
}

// stop sends a container its stop signal, and kills it after the timeout, in seconds. It succeeds for one that is gone.
func (s *Server) stop(ctx context.Context, id string, timeout int) error {
	defer s.view.touched(id)
	err := s.docker.ContainerStop(ctx, id, container.StopOptions{Timeout: &timeout})
	if isNotFound(err) {
		return nil
	}
	return err
}

// remove removes a container, and kills it first if it is running. It succeeds for one that is gone or already being removed.
func (s *Server) remove(ctx context.Context, id string) error {
	err := s.forceRemove(ctx, id)
	if isNotFound(err) || cerrdefs.IsConflict(err) {
		return nil
	}
	return err
}

// discard removes a container that failed to start, even if the caller's deadline has passed.
func (s *Server) discard(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(30*time.Second, s.cfg.CallTimeout))
	defer cancel()
	return s.forceRemove(ctx, id)
}

func (s *Server) forceRemove(ctx context.Context, id string) error {
	err := s.docker.ContainerRemove(ctx, id, container.RemoveOptions{Force: true, RemoveVolumes: true})
	if err == nil || isNotFound(err) {
		s.view.gone(id)
	} else {
		s.view.touched(id)
	}
	return err
}

// writeResolvConf writes the pod's resolv.conf: the given one, or a copy of the host's.
func writeResolvConf(path string, dns *runtimeapi.DNSConfig) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	text, ok := resolvConf(dns)
	if !ok {
		hosts, err := os.ReadFile("/etc/resolv.conf")
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		text = string(hosts)
	}
	return os.WriteFile(path, []byte(text), 0o644)
}

// StopPodSandbox stops the pod's containers and the sandbox, and releases the address. It succeeds for a sandbox that is gone.
func (s *Server) StopPodSandbox(ctx context.Context, r *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error) {
	sandbox, err := s.view.inspect(ctx, kindSandbox, r.GetPodSandboxId())
	if isNotFound(err) {
		return &runtimeapi.StopPodSandboxResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	containers, err := s.containersOf(ctx, sandbox.ID)
	if err != nil {
		return nil, err
	}
	if err := s.end(ctx, containers, sandbox.ID, func(id string) error { return s.stop(ctx, id, 0) }); err != nil {
		return nil, fmt.Errorf("cannot stop the sandbox: %w", err)
	}
	return &runtimeapi.StopPodSandboxResponse{}, nil
}

// RemovePodSandbox removes the sandbox and its remaining containers.
func (s *Server) RemovePodSandbox(ctx context.Context, r *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error) {
	sandbox, err := s.view.inspect(ctx, kindSandbox, r.GetPodSandboxId())
	if isNotFound(err) {
		return &runtimeapi.RemovePodSandboxResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	containers, err := s.containersOf(ctx, sandbox.ID)
	if err != nil {
		return nil, err
	}
	err = s.end(ctx, containers, sandbox.ID, func(id string) error {
		s.logs.forget(id)
		return s.remove(ctx, id)
	})
	if err != nil {
		return nil, fmt.Errorf("cannot remove the sandbox: %w", err)
	}
	record, err := readSandbox(sandbox.Config.Labels)
	if err != nil {
		return nil, err
	}
	if err := os.RemoveAll(filepath.Dir(record.ResolvConf)); err != nil {
		return nil, fmt.Errorf("cannot remove the sandbox's files: %w", err)
	}
	s.tidyVolumes(ctx)
	return &runtimeapi.RemovePodSandboxResponse{}, nil
}

// end stops or removes the containers of a sandbox, and the sandbox last. That is detached while it has its network namespace: CNI
// plugins find their rules by the addresses in it.
func (s *Server) end(ctx context.Context, containers []string, sandbox string, do func(id string) error) error {
	return membersFirst(containers, sandbox, func(id string) error {
		if id != sandbox {
			return do(id)
		}
		return errors.Join(s.cfg.Network.Detach(ctx, id), do(id))
	})
}

// membersFirst calls do for a sandbox's containers, several at a time, and then for the sandbox.
func membersFirst(containers []string, sandbox string, do func(id string) error) error {
	var group errgroup.Group
	group.SetLimit(parallelCalls)
	for _, id := range containers {
		group.Go(func() error { return do(id) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return do(sandbox)
}

// containersOf returns the ids of the sandbox's containers; some of them may be gone.
func (s *Server) containersOf(ctx context.Context, sandbox string) ([]string, error) {
	ids, err := s.view.ids(ctx, kindContainer, "", sandbox)
	if err != nil {
		return nil, fmt.Errorf("cannot list the sandbox's containers: %w", err)
	}
	return ids, nil
}

// ListPodSandbox lists our sandboxes, newest first.
func (s *Server) ListPodSandbox(ctx context.Context, r *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	filter := r.GetFilter()
	list, err := s.view.list(ctx, kindSandbox, filter.GetId(), "")
	if err != nil {
		return nil, err
	}
	response := new(runtimeapi.ListPodSandboxResponse)
	for _, c := range list {
		record, err := readSandbox(c.Config.Labels)
		if err != nil {
			return nil, err
		}
		state := sandboxState(c.State.Status)
		if filter.GetState() != nil && filter.GetState().GetState() != state || !selects(filter.GetLabelSelector(), record.Labels) {
			continue
		}
		response.Items = append(response.Items, &runtimeapi.PodSandbox{
			Id: c.ID, Metadata: record.Metadata, State: state, CreatedAt: nanoseconds(c.Created),
			Labels: record.Labels, Annotations: record.Annotations, RuntimeHandler: record.Handler,
		})
	}
	return response, nil
}

func sandboxState(state container.ContainerState) runtimeapi.PodSandboxState {
	if state == container.StateRunning {
		return runtimeapi.PodSandboxState_SANDBOX_READY
	}
	return runtimeapi.PodSandboxState_SANDBOX_NOTREADY
}

// PodSandboxStatus returns the status of one sandbox.
func (s *Server) PodSandboxStatus(ctx context.Context, r *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	var sandbox container.InspectResponse
	var status *runtimeapi.PodSandboxStatus
	var containers []*runtimeapi.ContainerStatus
	group, asking := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		if sandbox, err = s.view.inspect(asking, kindSandbox, r.GetPodSandboxId()); err == nil {
			status, err = s.sandboxStatus(sandbox)
		}
		return err
	})
	group.Go(func() (err error) {
		containers, err = s.containerStatuses(asking, r.GetPodSandboxId())
		return err
	})
	if err := group.Wait(); err != nil {
		return nil, err
	}
	response := &runtimeapi.PodSandboxStatusResponse{Status: status, ContainersStatuses: containers, Timestamp: time.Now().UnixNano()}
	if !r.GetVerbose() {
		return response, nil
	}
	var err error
	response.Info, err = verbose(sandbox)
	return response, err
}

func (s *Server) sandboxStatus(c container.InspectResponse) (*runtimeapi.PodSandboxStatus, error) {
	record, err := readSandbox(c.Config.Labels)
	if err != nil {
		return nil, err
	}
	namespaces := record.Namespaces
	if namespaces == nil {
		namespaces = new(runtimeapi.NamespaceOption)
	}
	return &runtimeapi.PodSandboxStatus{
		Id: c.ID, Metadata: record.Metadata, State: sandboxState(c.State.Status), CreatedAt: nanoseconds(c.Created),
		Network: podAddresses(s.cfg.Network.Addresses(c.ID)), Labels: record.Labels, Annotations: record.Annotations, RuntimeHandler: record.Handler,
		Linux: &runtimeapi.LinuxPodSandboxStatus{Namespaces: &runtimeapi.Namespace{Options: namespaces}},
	}, nil
}

// podAddresses translates a pod's addresses. A pod on the host network has none of its own.
func podAddresses(addresses []netip.Addr) *runtimeapi.PodSandboxNetworkStatus {
	status := new(runtimeapi.PodSandboxNetworkStatus)
	for i, address := range addresses {
		if i == 0 {
			status.Ip = address.String()
			continue
		}
		status.AdditionalIps = append(status.AdditionalIps, &runtimeapi.PodIP{Ip: address.String()})
	}
	return status
}

// tidyNetwork releases the addresses of sandboxes that were removed while this server did not run.
func (s *Server) tidyNetwork(ctx context.Context) {
	ids, err := s.view.ask(ctx, kindSandbox, "", "")
	if err == nil {
		err = s.cfg.Network.Keep(ctx, ids)
	}
	if err != nil {
		s.log.WithError(err).Warn("cannot release the addresses of removed sandboxes")
	}
}
