package controlplane

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path/filepath"
	"strings"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

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
	e, err := embed.StartEtcd(c.etcdConfig(port, zapToLogrus("etcd", s.logged)))
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
	e.CipherSuites, e.TlsMinVersion = c.TLS.suites(), c.TLS.etcdVersion()
	e.Name = snapshot.Member // a restored one has the same name
	e.InitialCluster = e.InitialClusterFromName(e.Name)
	e.Dir = dir.EtcdData()
	e.ListenPeerUrls = nil
	e.ListenClientUrls = []url.URL{{Scheme: "https", Host: fmt.Sprintf("127.0.0.1:%d", port)}}
	e.AdvertiseClientUrls = e.ListenClientUrls
	e.EnableGRPCGateway = false
	e.WarningUnaryRequestDuration = embed.DefaultWarningUnaryRequestDuration
	e.ZapLoggerBuilder = embed.NewZapLoggerBuilder(log)
	e.ClientTLSInfo = transport.TLSInfo{
		CertFile: certFile, KeyFile: keyFile, TrustedCAFile: dir.EtcdCA(), ClientCertAuth: true,
	}
	return e
}

// run waits until ctx is done, then stops etcd and waits for it.
func (s *etcdServer) run(ctx context.Context) error {
	defer s.Close()
	select {
	case <-ctx.Done():
		return nil
	case err := <-s.Err():
		return fmt.Errorf("etcd stopped: %w", err)
	case <-s.Server.StopNotify():
		return errors.New("etcd stopped by itself")
	}
}

// Close stops etcd and waits for it. It ignores etcd's errors about closed listeners.
func (s *etcdServer) Close() {
	s.logged.SetLevel(zap.FatalLevel)
	s.Etcd.Close()
}

// etcdClientConfig returns the configuration of clients of etcd with these certificates, if there are any.
func etcdClientConfig(access statedir.Etcd) (clientv3.Config, error) {
	config := clientv3.Config{Endpoints: access.Endpoints, Logger: zap.NewNop()}
	if access.CAFile+access.CertFile+access.KeyFile == "" {
		return config, nil
	}
	info := transport.TLSInfo{TrustedCAFile: access.CAFile, CertFile: access.CertFile, KeyFile: access.KeyFile}
	trusted, err := info.ClientConfig()
	if err != nil {
		return config, fmt.Errorf("cannot use the certificates for etcd: %w", err)
	}
	config.TLS = trusted
	return config, nil
}

// etcdClient returns a client of etcd with these certificates. The caller closes it.
func etcdClient(access statedir.Etcd) (*clientv3.Client, error) {
	config, err := etcdClientConfig(access)
	if err != nil {
		return nil, err
	}
	client, err := clientv3.New(config)
	if err != nil {
		return nil, fmt.Errorf("cannot connect to etcd: %w", err)
	}
	return client, nil
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

// existingEtcd returns how programs reach the etcd of --etcd-servers.
func (c Config) existingEtcd() statedir.Etcd {
	return statedir.Etcd{Endpoints: c.EtcdServers, CAFile: c.EtcdCAFile, CertFile: c.EtcdCertFile, KeyFile: c.EtcdKeyFile}
}

// checkOwner returns an error unless an existing etcd answers, for which kube-apiserver would wait forever, and belongs to the cluster in
// the state directory, or to none. It runs before a CA is made.
func (c Config) checkOwner(ctx context.Context) error {
	if len(c.EtcdServers) == 0 {
		return nil
	}
	var here []state.Authority
	switch ca, err := c.StateDir.CACertificates(); {
	case err == nil:
		here = state.AuthoritiesOf(ca)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	return c.withState(ctx, c.existingEtcd(), func(s *state.Store) error { return s.CheckOwner(ctx, here) })
}

// claim makes etcd that of the cluster in the state directory, or returns an error if it is another's.
func (c Config) claim(ctx context.Context, etcd statedir.Etcd) error {
	ca, err := c.StateDir.CACertificates()
	if err != nil {
		return err
	}
	return c.withState(ctx, etcd, func(s *state.Store) error { return s.Claim(ctx, state.AuthoritiesOf(ca)) })
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
