package controlplane

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/etcd"
	"github.com/k8sm/k8sm/api/snapshot"
	"github.com/k8sm/k8sm/api/state"
	"github.com/k8sm/k8sm/api/statedir"
)

// etcdServer is the embedded etcd.
type etcdServer struct {
	*embed.Etcd
	logged zap.AtomicLevel
}

// startEtcd starts the embedded etcd on loopback and waits until it serves. It has one member and so no peer listener. It requires a
// client certificate of its own CA (https://etcd.io/docs/v3.6/op-guide/security/).
func (c Config) startEtcd(ctx context.Context, port int) (*etcdServer, error) {
	dir := c.StateDir
	// Until it serves, etcd warns about choices that are right for one member on loopback.
	s := &etcdServer{logged: zap.NewAtomicLevelAt(zap.ErrorLevel)}
	e, err := embed.StartEtcd(c.etcdConfig(port, etcd.Logger(s.logged)))
	if err != nil {
		return nil, fmt.Errorf("cannot start etcd in %s: %w", dir.EtcdData(), err)
	}
	s.Etcd = e
	select {
	case <-e.Server.ReadyNotify():
		s.logged.SetLevel(zap.WarnLevel)
		return s, nil
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-e.Server.StopNotify():
		err = errors.New("it stopped")
	case err = <-e.Err():
	}
	s.Close()
	return nil, fmt.Errorf("cannot start etcd in %s: %w", dir.EtcdData(), err)
}

func (c Config) etcdConfig(port int, log *zap.Logger) *embed.Config {
	dir := c.StateDir
	certFile, keyFile := dir.Pair(statedir.EtcdServer)
	e := embed.NewConfig()
	e.CipherSuites, e.TlsMinVersion = c.TLS.Etcd()
	e.Name = snapshot.Member // a restored one has the same name
	e.InitialCluster = e.InitialClusterFromName(e.Name)
	e.Dir = dir.EtcdData()
	e.ListenPeerUrls = nil
	e.ListenClientUrls = []url.URL{{Scheme: "https", Host: fmt.Sprintf("127.0.0.1:%d", port)}}
	e.AdvertiseClientUrls = e.ListenClientUrls
	e.EnableGRPCGateway = false
	e.QuotaBackendBytes = int64(c.EtcdQuota)
	e.SnapshotCatchUpEntries = 1 // there is no other member that must catch up, and they are in memory
	e.WarningUnaryRequestDuration = embed.DefaultWarningUnaryRequestDuration
	e.ZapLoggerBuilder = embed.NewZapLoggerBuilder(log)
	e.ClientTLSInfo = transport.TLSInfo{
		CertFile: certFile, KeyFile: keyFile, TrustedCAFile: dir.EtcdCA(), ClientCertAuth: true,
	}
	return e
}

// run looks after etcd until ctx is done, then stops it and waits for it.
func (s *etcdServer) run(access statedir.Etcd) func(context.Context) error {
	return func(ctx context.Context) error {
		defer s.Close()
		client, err := etcd.Dial(access)
		if err != nil {
			return err
		}
		defer func() { _ = client.Close() }()
		caring, stop := context.WithCancel(ctx)
		var care sync.WaitGroup
		defer func() { stop(); care.Wait() }()
		care.Go(func() {
			etcd.Care{Client: client, Member: uint64(s.Server.MemberID()), Endpoint: access.Endpoints[0]}.Run(caring)
		})
		select {
		case <-ctx.Done():
			return nil
		case err := <-s.Err():
			return fmt.Errorf("etcd stopped: %w", err)
		case <-s.Server.StopNotify():
			return errors.New("etcd stopped by itself")
		}
	}
}

// Close stops etcd and waits for it. It ignores etcd's errors about closed listeners.
func (s *etcdServer) Close() {
	s.logged.SetLevel(zap.FatalLevel)
	s.Etcd.Close()
}

// embeddedEtcd returns how an administrator's programs reach the embedded etcd.
func embeddedEtcd(dir statedir.Dir, port int) statedir.Etcd {
	return statedir.Etcd{
		Endpoints: []string{fmt.Sprintf("https://127.0.0.1:%d", port)},
		CAFile:    dir.EtcdCA(),
		CertFile:  dir.EtcdClientCert(),
		KeyFile:   dir.EtcdClientKey(),
		Embedded:  true,
	}
}

// embeds reports whether the control plane runs etcd itself.
func (c Config) embeds() bool {
	_, managed := c.managedEtcd()
	return len(c.EtcdServers) == 0 && !managed
}

// managedEtcd returns how the administrator reaches the etcd of `km etcd`, if the control plane uses that: the state directory's, or
// that of --etcd-servers, whose certificates then are in the state directory.
func (c Config) managedEtcd() (access statedir.Etcd, managed bool) {
	if len(c.EtcdServers) == 0 {
		access, err := c.StateDir.Etcd()
		return access, err == nil && access.Managed
	}
	plain := slices.ContainsFunc(c.EtcdServers, func(u string) bool { return !strings.HasPrefix(u, "https://") })
	return statedir.Etcd{
		Endpoints: c.EtcdServers, CAFile: c.StateDir.EtcdCA(), CertFile: c.StateDir.EtcdClientCert(), KeyFile: c.StateDir.EtcdClientKey(), Managed: true,
	}, !plain && c.EtcdCAFile+c.EtcdCertFile+c.EtcdKeyFile == ""
}

// existingEtcd returns how the control plane reaches the etcd that is there already.
func (c Config) existingEtcd() statedir.Etcd {
	if access, managed := c.managedEtcd(); managed {
		if addresses, err := net.InterfaceAddrs(); err == nil && len(c.EtcdServers) == 0 {
			access.Endpoints = ownMember(access.Endpoints, addresses)
		}
		return access
	}
	return statedir.Etcd{Endpoints: c.EtcdServers, CAFile: c.EtcdCAFile, CertFile: c.EtcdCertFile, KeyFile: c.EtcdKeyFile}
}

// checkOwner returns an error unless an existing etcd answers, for which kube-apiserver would wait forever, and belongs to the cluster in
// the state directory, or to none. It runs before a CA or a key is made.
func (c Config) checkOwner(ctx context.Context) error {
	if c.embeds() {
		return c.checkBegins()
	}
	_, managed := c.managedEtcd()
	if managed {
		if err := c.StateDir.PrepareEtcd(statedir.EtcdSpec{Now: time.Now()}); err != nil {
			return err
		}
	}
	var here []state.Authority
	switch cas, err := c.StateDir.CACertificates(); {
	case err == nil:
		here = state.AuthoritiesOf(cas)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := c.withState(ctx, c.existingEtcd(), func(s *state.Store) error { return s.CheckOwner(ctx, here) }); err != nil {
		return err
	}
	if managed && c.EncryptionConfig == "" {
		return c.checkKey(ctx, c.existingEtcd())
	}
	return nil
}

// checkBegins returns an error if the embedded etcd would begin an empty cluster beside the one whose authorities were brought here: a
// control plane that has run here has left a record of its etcd, and kubeconfigs.
func (c Config) checkBegins() error {
	dir := c.StateDir
	for _, file := range []string{dir.EtcdData(), dir.AdminKubeconfig()} {
		if _, err := os.Stat(file); err == nil || !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if _, err := dir.Etcd(); !errors.Is(err, statedir.ErrNoCluster) || !dir.HasAuthorities() {
		return nil
	}
	return fmt.Errorf("cannot begin an etcd in %s: it has the authorities of a cluster, whose etcd is elsewhere. Give --etcd-servers, or run km etcd join here first; "+
		"for a new and empty cluster with these authorities, run km etcd first", dir)
}

// checkKey returns an error if the secrets in etcd are encrypted with a key that another control plane has made and this one lacks.
func (c Config) checkKey(ctx context.Context, access statedir.Etcd) error {
	if _, err := os.Stat(c.StateDir.EncryptionConfig()); err == nil {
		return nil
	}
	client, err := etcd.Dial(access)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	some, err := client.Get(ctx, secretsPrefix, clientv3.WithPrefix(), clientv3.WithLimit(1))
	if err != nil {
		return fmt.Errorf("cannot read secrets in etcd: %w", err)
	}
	if len(some.Kvs) > 0 && strings.HasPrefix(string(some.Kvs[0].Value), "k8s:enc:") {
		return fmt.Errorf("cannot read the secrets in etcd: they are encrypted, and there is no key here; copy %s of a control plane of this etcd's cluster to %s",
			filepath.Base(c.StateDir.EncryptionConfig()), c.StateDir)
	}
	return nil
}

// claim makes etcd that of the cluster in the state directory, or returns an error if it is another's, or has data that this version must
// not take over.
func (c Config) claim(ctx context.Context, access statedir.Etcd) error {
	ca, err := c.StateDir.CACertificates()
	if err != nil {
		return err
	}
	return c.withState(ctx, access, func(s *state.Store) error {
		if err := s.Claim(ctx, state.AuthoritiesOf(ca)); err != nil {
			return err
		}
		return takeOver(ctx, s)
	})
}

// takeOver returns an error if other versions' API servers have written to etcd that this one must not follow.
func takeOver(ctx context.Context, s *state.Store) error {
	warning, err := s.TakeOver(ctx, api.KubernetesVersion)
	if err != nil {
		return fmt.Errorf("cannot use the data in etcd: %w; start the km of the version in between first, or restore a snapshot of this version", err)
	}
	if warning != "" {
		logrus.Warn(warning + ". Go back to that version, or restore a snapshot of this one, if something is missing")
	}
	return nil
}

// withState calls do with k8sm's state in etcd.
func (c Config) withState(ctx context.Context, e statedir.Etcd, do func(*state.Store) error) error {
	s, err := state.Open(ctx, state.Config{
		Endpoints: e.Endpoints, CAFile: e.CAFile, CertFile: e.CertFile, KeyFile: e.KeyFile, Name: c.ClusterName,
	})
	if err != nil {
		return err
	}
	err = do(s)
	if errors.Is(err, state.ErrOtherCluster) {
		err = fmt.Errorf("cannot use etcd at %s: %w; replace %s by that folder of a control plane of this etcd's cluster, or use another etcd",
			strings.Join(e.Endpoints, ", "), err, filepath.Dir(c.StateDir.CA()))
	}
	return errors.Join(err, s.Close())
}
