package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"

	"k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/rest"

	"github.com/k8sm/k8sm/api/balancer"
	"github.com/k8sm/k8sm/api/skew"
)

// serverVersions asks each API server of a cluster for its version. A server that does not answer has the version that it told last.
type serverVersions struct {
	client *http.Client
	list   func() []string // the servers' "host:port"

	mu   sync.Mutex // guards told
	told map[string]string
}

// newServerVersions returns one that asks with the identity of a configuration.
func newServerVersions(config *rest.Config, list func() []string) (*serverVersions, error) {
	direct := rest.CopyConfig(config)
	direct.Dial, direct.ServerName = nil, balancer.ServerName // to the server that is asked
	client, err := rest.HTTPClientFor(direct)
	if err != nil {
		return nil, fmt.Errorf("cannot create a client of the API servers: %w", err)
	}
	return &serverVersions{client: client, list: list, told: map[string]string{}}, nil
}

// ask returns the servers with their versions, in the order of the list.
func (v *serverVersions) ask(ctx context.Context) []skew.Server {
	addresses := v.list()
	versions := make([]string, len(addresses))
	var asking sync.WaitGroup
	for i, address := range addresses {
		asking.Go(func() { versions[i], _ = v.askOne(ctx, address) }) // without an answer, the last one holds
	}
	asking.Wait()
	v.mu.Lock()
	defer v.mu.Unlock()
	before := v.told
	v.told = map[string]string{}
	servers := make([]skew.Server, len(addresses))
	for i, address := range addresses {
		if versions[i] == "" {
			versions[i] = before[address]
		}
		v.told[address] = versions[i]
		servers[i] = skew.Server{Address: address, Version: versions[i]}
	}
	return servers
}

func (v *serverVersions) askOne(ctx context.Context, address string) (string, error) {
	body, err := v.get(ctx, address, "/version")
	if err != nil {
		return "", err
	}
	defer body.Close()
	var info version.Info
	err = json.NewDecoder(io.LimitReader(body, 1<<20)).Decode(&info)
	return info.GitVersion, err
}

// get reads a path of a server. The caller closes the body.
func (v *serverVersions) get(ctx context.Context, address, path string) (io.ReadCloser, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+path, nil)
	if err != nil {
		return nil, err
	}
	answer, err := v.client.Do(request)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusOK {
		_ = answer.Body.Close()
		return nil, fmt.Errorf("it answers %s", answer.Status)
	}
	return answer.Body, nil
}
