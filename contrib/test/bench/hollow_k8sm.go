package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	mesosapi "github.com/mesos/mesos-go/api/v1/lib"
	"github.com/spf13/pflag"

	"github.com/k8sm/k8sm/api/protobuf"
	"github.com/k8sm/k8sm/api/state"
	"github.com/k8sm/k8sm/contrib/localmesos"
	"github.com/k8sm/k8sm/scheduler/kube"
	driver "github.com/k8sm/k8sm/scheduler/mesos"
	"github.com/k8sm/k8sm/scheduler/run"
)

// hollowResources are what each node has, under either scheduler.
const hollowResources = "cpus:4;mem:8192;disk:100000;ports:[31000-32000]"

// k8smOnHollow is our scheduler with its default configuration but without client rate limits, on a local Mesos whose executors answer
// at once. Mesos and the executors use the same processors.
type k8smOnHollow struct {
	*hollow
	mesos *localmesos.Cluster
	store *state.Store
	end   context.CancelFunc
	ended chan error
}

func (k *k8smOnHollow) start(ctx context.Context) (err error) {
	var local localmesos.Config
	local.AddFlags(pflag.NewFlagSet("", pflag.PanicOnError))
	local.Agents, local.Port, local.Hostname, local.Resources = hollowNodes, 0, "hollow", hollowResources
	local.WorkDir = filepath.Join(string(k.dir), "mesos")
	local.Executors = func(mesosapi.ExecutorInfo) localmesos.Executor { return localmesos.Hollow{} }
	if k.mesos, err = localmesos.Start(ctx, local); err != nil {
		return err
	}
	return k.resume(ctx)
}

// resume starts the scheduler as `km scheduler` does.
func (k *k8smOnHollow) resume(ctx context.Context) error {
	etcd, err := k.dir.Etcd()
	if err != nil {
		return err
	}
	k.store, err = state.Open(ctx, state.Config{
		Endpoints: etcd.Endpoints, CAFile: etcd.CAFile, CertFile: etcd.CertFile, KeyFile: etcd.KeyFile, Name: "k8sm",
	})
	if err != nil {
		return err
	}
	flags := pflag.NewFlagSet("", pflag.PanicOnError)
	var cfg run.Config
	cfg.AddFlags(flags)
	var master driver.Config
	master.AddFlags(flags)
	master.Masters = []string{k.mesos.MasterAddr()}
	master.Principal, master.SecretFile = k.mesos.Credential()
	toMesos, err := driver.New(master)
	if err != nil {
		return err
	}
	client, err := protobuf.NewClient(k.rest)
	if err != nil {
		return err
	}
	cluster := kube.New(client)
	cfg.Identity, cfg.Cluster, cfg.APIServer, cfg.CA = "bench", "k8sm", k.rest.Host, func() ([]byte, error) { return k.rest.CAData, nil }
	parts := run.Parts{Master: toMesos, Cluster: cluster, Store: k.store, Tokens: cluster, Codec: driver.Codec{}}
	ctx, k.end = context.WithCancel(ctx)
	k.ended = make(chan error, 1)
	go func() { k.ended <- run.Run(ctx, cfg, parts) }()
	return nil
}

func (k *k8smOnHollow) pause() error {
	var err error
	if k.end != nil {
		k.end()
		err = <-k.ended
		k.end = nil
	}
	if k.store != nil {
		err = errors.Join(err, k.store.Close())
		k.store = nil
	}
	if err != nil {
		return fmt.Errorf("the scheduler ended: %w", err)
	}
	return nil
}

func (k *k8smOnHollow) stop() error {
	err := k.pause()
	if k.mesos != nil {
		k.mesos.Stop()
	}
	return err
}
