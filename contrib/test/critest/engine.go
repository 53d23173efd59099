package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/k8sm/k8sm/contrib/up/engine"
	"github.com/k8sm/k8sm/minion/cri"
	"github.com/k8sm/k8sm/minion/network"
)

// podSubnet is the range of the suite's pods.
const podSubnet = "10.213.88.0/24"

// startEngine removes leftovers of a killed run, and starts the Docker Engine. All files are in the Engine's directory, so that
// stopping the Engine also unmounts what the suite left mounted there.
func (h *harness) startEngine(ctx context.Context) error {
	if _, err := os.Stat(h.dir); err == nil {
		fmt.Println("  removing what an earlier run left")
		if err := h.openEngine(ctx); err != nil {
			return err
		}
		if err := h.removeEngine(ctx); err != nil {
			return err
		}
	}
	h.undo.Add(h.removeEngine)
	return h.openEngine(ctx)
}

func (h *harness) openEngine(ctx context.Context) error {
	e, err := engine.Start(ctx, engine.Config{Dir: h.dir, Settings: h.settings})
	if err != nil {
		return err
	}
	if h.docker, err = client.NewClientWithOpts(client.WithHost(e.Host()), client.WithAPIVersionNegotiation()); err != nil {
		return errors.Join(err, e.Stop(ctx))
	}
	h.engine = e
	return nil
}

// removeEngine stops the Engine, even if it does not answer, and removes its containers and files. If it cannot stop the Engine, the
// files stay.
func (h *harness) removeEngine(ctx context.Context) error {
	if h.engine == nil {
		return nil
	}
	cleared := h.clearEngine(ctx)
	if err := h.engine.Stop(ctx); err != nil {
		return errors.Join(cleared, err)
	}
	h.engine = nil
	return errors.Join(cleared, os.RemoveAll(h.dir))
}

func (h *harness) clearEngine(ctx context.Context) error {
	defer h.docker.Close()
	list, err := h.docker.ContainerList(ctx, container.ListOptions{All: true})
	if err != nil {
		return fmt.Errorf("cannot list the containers to remove them: %w", err)
	}
	for _, c := range list {
		err = errors.Join(err, h.docker.ContainerRemove(ctx, c.ID, container.RemoveOptions{Force: true, RemoveVolumes: true}))
	}
	pods, openErr := h.podNetwork()
	if openErr != nil {
		return errors.Join(err, openErr)
	}
	return errors.Join(err, pods.Teardown())
}

// podNetwork is the network of the suite's pods, as an earlier run may have left it.
func (h *harness) podNetwork() (*network.Network, error) {
	return network.New(network.Config{Cluster: "critest", Node: "critest", Dir: h.path("network")})
}

func (h *harness) socket() string { return h.path("cri.sock") }

// serve runs the server under test in this process, until undone.
func (h *harness) serve(ctx context.Context) error {
	file, err := h.log("cri.log")
	if err != nil {
		return err
	}
	log := logrus.New()
	log.SetOutput(file)
	log.SetLevel(logrus.DebugLevel)
	pods, err := h.podNetwork()
	if err == nil {
		err = pods.Setup([]string{podSubnet})
	}
	if err != nil {
		return errors.Join(err, file.Close())
	}
	server, err := cri.New(ctx, cri.Config{
		Socket: h.socket(), DockerHost: h.engine.Host(), Root: h.path("cri"),
		Cluster: "critest", Node: "critest", Network: pods, Log: log,
	})
	if err != nil {
		return errors.Join(err, file.Close())
	}
	serving, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() { ended <- server.Run(serving) }()
	h.undo.Add(func(context.Context) error {
		cancel()
		return errors.Join(<-ended, file.Close())
	})
	return h.awaitServer(ctx)
}

// awaitServer waits until the server answers.
func (h *harness) awaitServer(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	connection, err := grpc.NewClient("unix://"+h.socket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	version, err := runtimeapi.NewRuntimeServiceClient(connection).Version(ctx, &runtimeapi.VersionRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return fmt.Errorf("the server does not answer: %w", err)
	}
	fmt.Printf("  over Docker Engine %s\n", version.RuntimeVersion)
	return nil
}
