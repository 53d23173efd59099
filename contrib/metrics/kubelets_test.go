package metrics

import (
	"testing"

	"k8s.io/client-go/rest"

	"github.com/k8sm/k8sm/api/balancer"
	"github.com/k8sm/k8sm/api/statedir"
)

// The kubeconfig leads to a port on loopback, and has a name of the API servers: no kubelet's certificate has that.
func TestKubeletsAreNotExpectedToBeAPIServers(t *testing.T) {
	c := Config{Dir: statedir.Dir(t.TempDir()), Address: "127.0.0.1"}
	kubelets := c.options().KubeletClient.Config(&rest.Config{Host: "https://127.0.0.1:1", TLSClientConfig: rest.TLSClientConfig{ServerName: balancer.ServerName}})
	if kubelets.Client.ServerName != balancer.ServerName {
		t.Error("metrics-server has changed: this is not needed any more")
	}
	askByAddress(kubelets)
	if kubelets.Client.ServerName != "" || kubelets.Client.CAFile != c.Dir.KubeletTrust() {
		t.Errorf("it expects %q, of the CAs in %s", kubelets.Client.ServerName, kubelets.Client.CAFile)
	}
}
