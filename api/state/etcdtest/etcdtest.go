// Package etcdtest starts a real etcd for a test. Only tests import it.
package etcdtest

import (
	"net/url"
	"testing"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

// Start runs an etcd with one member, without TLS, on a free loopback port until the test ends. It returns its HOST:PORT.
func Start(t *testing.T) (address string) {
	t.Helper()
	e, err := Serve(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e.Clients[0].Addr().String()
}

// Serve runs such an etcd with its data in dir, for a process of its own. The caller closes it.
func Serve(dir string) (*embed.Etcd, error) {
	c := embed.NewConfig()
	c.Dir = dir
	c.UnsafeNoFsync = true // what it wrote outlives its process, and need not outlive the machine; a disk may be busy with other tests
	c.ListenPeerUrls = nil
	c.ListenClientUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	c.AdvertiseClientUrls = c.ListenClientUrls
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	e, err := embed.StartEtcd(c)
	if err != nil {
		return nil, err
	}
	<-e.Server.ReadyNotify()
	return e, nil
}
