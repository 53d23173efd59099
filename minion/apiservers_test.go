package minion

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/heldport"
)

// awayServer returns the URL of an API server that is away.
func awayServer(t *testing.T) string {
	t.Helper()
	return fmt.Sprintf("https://127.0.0.1:%d", heldport.OfTest(t))
}

func TestNodeStartsWhileTheServerOfItsLaunchIsAway(t *testing.T) {
	for _, from := range []string{"the launch", "the file of an earlier minion"} {
		t.Run(from, func(t *testing.T) {
			n, _ := newStartedNode(t)
			url, ca, _ := apiServer(t, &api.MinionConfig{ClusterDomain: "example"})
			other := strings.TrimPrefix(url, "https://")
			n.boot.APIServer, n.boot.CA = awayServer(t), ca
			if from == "the launch" {
				n.boot.APIServers = []string{other}
			} else {
				n.cfg.Given.RootDir = shortDir(t)
				usual, err := n.usualFiles()
				if err != nil {
					t.Fatal(err)
				}
				if err := usual.make(); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(usual.apiServers(), []byte(`{"servers": ["`+other+`"]}`), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			named := n.boot.APIServer
			servers, err := n.reachAPIServers(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer servers.stop()
			if n.namedServer != named {
				t.Errorf("the named server is %s, want %s", n.namedServer, named)
			}
			client, err := newClient(n.boot, "", tokenAuth(n.boot))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := fetchConfig(t.Context(), client); err != nil || got.ClusterDomain != "example" {
				t.Errorf("the configuration is %+v, %v", got, err)
			}
		})
	}
}

func TestStockProgramsOfANodeCallItsBalancer(t *testing.T) {
	n, _ := newStartedNode(t)
	url, ca, _ := apiServer(t, &api.MinionConfig{})
	n.boot.APIServer, n.boot.CA = url, ca
	servers, err := n.reachAPIServers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer servers.stop()
	if err := writeKubeconfig(n.files.kubeconfig(), kubeconfig(n.boot, "", tokenAuth(n.boot))); err != nil {
		t.Fatal(err)
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", n.files.kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Host == url || !strings.HasPrefix(cfg.Host, "https://127.0.0.1:") {
		t.Errorf("they call %s", cfg.Host)
	}
	servers.Remember(n.files.apiServers())
	servers.Set([]string{"192.0.2.1:6443", "192.0.2.2:6443"})
	var stored struct{ Servers []string }
	data, err := os.ReadFile(n.files.apiServers())
	if err == nil {
		err = json.Unmarshal(data, &stored)
	}
	if diff := cmp.Diff([]string{"192.0.2.1:6443", "192.0.2.2:6443"}, stored.Servers); diff != "" || err != nil {
		t.Errorf("%v, remembered: %s", err, diff)
	}
}
