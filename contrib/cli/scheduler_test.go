package cli

import (
	"path/filepath"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/protobuf"
)

func TestSchedulerSendsItsFiguresWhereMinionsDo(t *testing.T) {
	for target, want := range map[string]bool{"": false, "tcp://transfer:8433": true, "protocol-of-2036://there": false} {
		s := schedule{falcon: api.Falcon{Target: target, Step: 45}}
		pusher := s.pusher()
		if (pusher != nil) != want || want && pusher.Step() != 45*time.Second {
			t.Errorf("--falcon=%s: %+v", target, pusher)
		}
	}
}

func TestBindingsAndLeasesWaitForNoLimitOfTheClient(t *testing.T) {
	file := filepath.Join(t.TempDir(), "kubeconfig")
	kubeconfig := clientcmdapi.NewConfig()
	kubeconfig.Clusters["c"] = &clientcmdapi.Cluster{Server: "https://127.0.0.1:6443"}
	kubeconfig.Contexts["c"] = &clientcmdapi.Context{Cluster: "c"}
	kubeconfig.CurrentContext = "c"
	if err := clientcmd.WriteToFile(*kubeconfig, file); err != nil {
		t.Fatal(err)
	}
	config, err := schedulerClient(file)
	if err != nil {
		t.Fatal(err)
	}
	for what, limited := range map[bool]bool{true: false, false: true} {
		used := config
		if !what {
			used = slow(config) // for strangers
		}
		client, err := protobuf.NewClient(used)
		if err != nil {
			t.Fatal(err)
		}
		if limiter := client.CoreV1().RESTClient().GetRateLimiter(); (limiter != nil) != limited {
			t.Errorf("the scheduler's own calls: %t, limit: %v", what, limiter)
		}
	}
}
