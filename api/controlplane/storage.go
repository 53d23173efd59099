package controlplane

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
	"k8s.io/kubernetes/cmd/kube-apiserver/app/options"
)

// runAPIServer does what app.Run does, but stores nodes as JSON.
func runAPIServer(ctx context.Context, o options.CompletedOptions) error {
	config, err := app.NewConfig(o)
	if err != nil {
		return err
	}
	if err := storeNodesAsJSON(config); err != nil {
		return err
	}
	completed, err := config.Complete()
	if err != nil {
		return err
	}
	chain, err := app.CreateServerChain(completed)
	if err != nil {
		return err
	}
	prepared, err := chain.PrepareRun()
	if err != nil {
		return err
	}
	return prepared.Run(ctx)
}

// storeNodesAsJSON makes `km etcdctl get --prefix /registry/minions` readable. All else is stored as --storage-media-type of
// kube-apiserver says: that flag knows no resources. Objects are read in either encoding, whatever they are to be written in.
func storeNodesAsJSON(config *app.Config) error {
	factory, ok := config.KubeAPIs.ControlPlane.StorageFactory.(*serverstorage.DefaultStorageFactory)
	if !ok {
		return fmt.Errorf("cannot store nodes as JSON: kube-apiserver's storage is a %T", config.KubeAPIs.ControlPlane.StorageFactory)
	}
	factory.SetSerializer(corev1.Resource("nodes"), runtime.ContentTypeJSON, nil)
	return nil
}
