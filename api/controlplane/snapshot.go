package controlplane

import (
	"context"

	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/k8sm/k8sm/api/etcd"
	"github.com/k8sm/k8sm/api/snapshot"
	"github.com/k8sm/k8sm/api/statedir"
)

// SaveSnapshot saves the cluster of the state directory to the file. Its etcd must run.
func SaveSnapshot(ctx context.Context, dir statedir.Dir, file string) (snapshot.Manifest, error) {
	access, err := dir.Etcd()
	if err != nil {
		return snapshot.Manifest{}, err
	}
	config, err := etcd.ClientConfig(access)
	if err != nil {
		return snapshot.Manifest{}, err
	}
	return snapshot.Save(ctx, snapshot.Source{Dir: dir, Etcd: config}, file)
}

// saveSnapshots saves snapshots by the schedule until ctx ends. Its metrics are among those of the API server.
func (c Config) saveSnapshots(ctx context.Context) {
	if c.Snapshots.Dir == "" {
		return
	}
	figures := snapshot.NewFigures()
	legacyregistry.RawMustRegister(figures.Collectors()...)
	c.Snapshots.Run(ctx, figures, func(ctx context.Context, file string) (snapshot.Manifest, error) {
		return SaveSnapshot(ctx, c.StateDir, file)
	})
}
