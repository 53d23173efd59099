package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	mesosapi "github.com/mesos/mesos-go/api/v1/lib"
	"github.com/spf13/pflag"

	"github.com/k8sm/k8sm/contrib/localmesos"
)

// hollowResources are what each node has, under either scheduler.
const hollowResources = "cpus:4;mem:8192;disk:100000;ports:[31000-32000]"

// mesosVariable has a hollowMesos as JSON, in the process that plays Mesos.
const mesosVariable = "K8SM_BENCH_MESOS"

// hollowMesos is a local Mesos whose executors answer at once.
type hollowMesos struct {
	Dir    string
	Agents int
}

// playMesos runs until it is interrupted. It prints the address of the master, the principal of frameworks and the file of its secret.
func playMesos(text string) error {
	var m hollowMesos
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var local localmesos.Config
	local.AddFlags(pflag.NewFlagSet("", pflag.PanicOnError))
	local.Agents, local.Port, local.Hostname, local.Resources, local.WorkDir = m.Agents, 0, "hollow", hollowResources, m.Dir
	local.Executors = func(mesosapi.ExecutorInfo) localmesos.Executor { return localmesos.Hollow{} }
	mesos, err := localmesos.Start(ctx, local)
	if err != nil {
		return err
	}
	defer mesos.Stop()
	principal, secret := mesos.Credential()
	fmt.Println(mesos.MasterAddr(), principal, secret)
	<-ctx.Done()
	return nil
}

// k8smOnHollow is `km scheduler` as users run it, beside a Mesos whose nodes are hollow. Mesos and its executors use the same processors.
type k8smOnHollow struct {
	*hollow
	km        string
	mesos     *program
	flags     []string // of the scheduler, which say where Mesos is
	status    string   // the address of the scheduler's status server
	scheduler *program // nil while it is paused
}

func (k *k8smOnHollow) start(ctx context.Context) error {
	text, err := json.Marshal(hollowMesos{Dir: filepath.Join(string(k.dir), "mesos"), Agents: k.nodes})
	if err != nil {
		return err
	}
	var says string
	if k.mesos, says, err = startRole(k.log, mesosVariable, string(text)); err != nil {
		return err
	}
	for i, value := range strings.Fields(says) {
		k.flags = append(k.flags, []string{"--mesos-master", "--mesos-principal", "--mesos-secret-file"}[i]+"="+value)
	}
	return k.resume(ctx)
}

// resume starts the scheduler. Hollow nodes have no minions to roll out.
func (k *k8smOnHollow) resume(context.Context) (err error) {
	if k.status, err = freeAddress(); err != nil {
		return err
	}
	args := append([]string{"--state-dir", string(k.dir), "scheduler", "--km-path=/usr/bin/km", "--rollout=off", "--status-address=" + k.status}, k.flags...)
	k.scheduler, err = startProgram(k.log, k.km, args...)
	return err
}

func (k *k8smOnHollow) pause() error {
	if k.scheduler == nil {
		return nil
	}
	err := k.scheduler.end(syscall.SIGTERM)
	k.scheduler = nil
	if err != nil {
		return fmt.Errorf("the scheduler ended: %w", err)
	}
	return nil
}

func (k *k8smOnHollow) stop() error {
	err := k.pause()
	if k.mesos != nil {
		err = errors.Join(err, k.mesos.end(os.Interrupt))
		k.mesos = nil
	}
	return err
}

func (k *k8smOnHollow) processes() map[string]int {
	return map[string]int{"scheduler": k.scheduler.pid(), "mesos": k.mesos.pid()}
}

func (k *k8smOnHollow) address() string { return "https://" + k.status }
