package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/docker/docker/client"
	"github.com/spf13/pflag"
	"github.com/vishvananda/netns"

	"github.com/k8sm/k8sm/contrib/localmesos"
	"github.com/k8sm/k8sm/contrib/test/scratch"
	"github.com/k8sm/k8sm/contrib/up/engine"
)

// agent is a machine that pods run on.
type agent struct {
	machine
	engine *engine.Engine
}

// agentCount is how many agents there are: the pods of the service are on different ones.
const agentCount = 2

// startAgents starts what pods run on.
func (c *cluster) startAgents(ctx context.Context) error {
	mesos := localmesos.Config{}
	mesos.AddFlags(pflag.NewFlagSet("", pflag.ContinueOnError)) // for the defaults
	mesos.IP, mesos.WorkDir = subnet+"1", filepath.Join(c.dir, "mesos")
	mesos.Resources = "cpus:4;mem:4096;disk:8000;ports:[31000-31009]"
	for _, a := range c.agents {
		var err error
		if a.engine, err = engine.Start(ctx, engine.Config{Dir: a.dir, Enter: a.enter}); err != nil {
			return err
		}
		if err := importImage(ctx, a.engine.Host()); err != nil {
			return err
		}
		mesos.Own = append(mesos.Own, localmesos.Agent{
			Hostname: a.name, IP: a.address, Enter: a.enter, ExecutorEnvironmentVariables: fmt.Sprintf("{%q: %q}", client.EnvOverrideHost, a.engine.Host()),
		})
	}
	if err := os.Mkdir(mesos.WorkDir, 0o700); err != nil {
		return err
	}
	var err error
	c.mesos, err = localmesos.Start(ctx, mesos)
	return err
}

// image is the one that pods have: busybox.
const image = "k8sm.test/busybox:1"

func importImage(ctx context.Context, host string) error {
	docker, err := client.NewClientWithOpts(client.WithHost(host), client.WithAPIVersionNegotiation())
	if err != nil {
		return err
	}
	defer docker.Close()
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return fmt.Errorf("%w; run `make deps` first", err)
	}
	return scratch.ImportImage(ctx, docker, image, "/bin/busybox", busybox)
}

// enter calls do in the machine's network namespace: its sockets and child processes belong there.
func (m machine) enter(do func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked, so that the thread ends with this goroutine if it cannot return
		home, err := netns.Get()
		if err != nil {
			done <- err
			return
		}
		defer home.Close()
		there, err := netns.GetFromName(m.space)
		if err != nil {
			done <- err
			return
		}
		defer there.Close()
		if err := netns.Set(there); err != nil {
			done <- err
			return
		}
		err = do()
		if netns.Set(home) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}
