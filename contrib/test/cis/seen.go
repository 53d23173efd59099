package cis

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	proxyconfig "k8s.io/kube-proxy/config/v1alpha1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	"sigs.k8s.io/yaml"

	"github.com/k8sm/k8sm/api/statedir"
)

// Target is the cluster to check: all of it runs on this machine, with the embedded etcd.
type Target struct {
	// Dir is the cluster's state directory.
	Dir statedir.Dir
	// REST reaches the API server as the administrator, and Kube is a client of it.
	REST *rest.Config
	Kube kubernetes.Interface
	// ControllerManager and Status are where kube-controller-manager and the scheduler serve, as "host:port".
	ControllerManager, Status string
}

// seen is what Check has read of a cluster.
type seen struct {
	Target
	apiServer, controllerManager map[string]string // flags
	kubelets                     []kubeletSeen
	proxies                      []proxyconfig.KubeProxyConfiguration
	admission                    refusals
}

// kubeletSeen is a kubelet that runs.
type kubeletSeen struct {
	args   map[string]string
	config kubeletconfig.KubeletConfiguration
}

// look reads the cluster.
func look(ctx context.Context, t Target) (*seen, error) {
	s := &seen{Target: t}
	var err error
	if s.apiServer, err = s.flagz(ctx, t.REST.Host); err != nil {
		return nil, err
	}
	if s.controllerManager, err = s.flagz(ctx, "https://"+t.ControllerManager); err != nil {
		return nil, err
	}
	if err := s.awaitNodePrograms(ctx); err != nil {
		return nil, err
	}
	s.admission = t.tryPods(ctx)
	return s, nil
}

// client returns a client with the administrator's certificate. Servers other than the API server are not verified: the controller
// manager has a certificate of its own making.
func (s *seen) client(verify bool) (*http.Client, error) {
	config := rest.CopyConfig(s.REST)
	if !verify {
		config.Insecure, config.CAData, config.CAFile = true, nil, ""
	}
	return rest.HTTPClientFor(config)
}

// stranger is a client without credentials, which trusts any server.
func (s *seen) stranger() (*http.Client, error) {
	config := rest.AnonymousClientConfig(s.REST)
	config.Insecure, config.CAData, config.CAFile = true, nil, ""
	return rest.HTTPClientFor(config)
}

// flagz reads the flags of a stock program (https://kubernetes.io/docs/reference/instrumentation/zpages/).
func (s *seen) flagz(ctx context.Context, host string) (map[string]string, error) {
	client, err := s.client(host == s.REST.Host)
	if err != nil {
		return nil, err
	}
	data, err := get(ctx, client, host+"/flagz", "application/json;v=v1beta1;g=config.k8s.io;as=Flagz")
	if err != nil {
		return nil, fmt.Errorf("cannot read the flags of a stock program: %w", err)
	}
	var answer struct{ Flags map[string]string }
	if err := json.Unmarshal(data, &answer); err != nil || len(answer.Flags) == 0 {
		return nil, fmt.Errorf("cannot read the flags at %s/flagz: %w, in %.200q", host, err, data)
	}
	return answer.Flags, nil
}

// get fetches a page. The body of another status is part of the error.
func get(ctx context.Context, client *http.Client, url, accept string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	if accept != "" {
		request.Header.Set("Accept", accept)
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, 4<<20))
	if err == nil && response.StatusCode != http.StatusOK {
		err = statusError{url, response.StatusCode, string(data)}
	}
	return data, err
}

// statusError is an answer other than 200.
type statusError struct {
	url    string
	status int
	body   string
}

func (e statusError) Error() string {
	return fmt.Sprintf("%s answers %d: %.200s", e.url, e.status, e.body)
}

// awaitNodePrograms waits until a kubelet and a proxy of this cluster run, and the kubelet answers.
func (s *seen) awaitNodePrograms(ctx context.Context) error {
	var last error
	found := func(ctx context.Context) (bool, error) {
		s.kubelets, s.proxies = nil, nil
		last = s.findNodePrograms(ctx)
		return last == nil, nil
	}
	if err := wait.PollUntilContextTimeout(ctx, time.Second, 2*time.Minute, true, found); err != nil {
		return errors.Join(err, last)
	}
	return nil
}

// findNodePrograms finds the kubelets and proxies of this cluster among the machine's processes, by files below its state directory.
func (s *seen) findNodePrograms(ctx context.Context) error {
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return err
	}
	for _, file := range lines {
		data, _ := os.ReadFile(file) // processes come and go
		words := strings.Split(string(bytes.TrimRight(data, "\x00")), "\x00")
		if len(words) < 2 {
			continue
		}
		args := arguments(words[2:])
		if !strings.HasPrefix(args["config"], string(s.Dir)+"/") {
			continue
		}
		switch words[1] {
		case "kubelet":
			err = s.addKubelet(ctx, args)
		case "proxy":
			err = s.addProxy(args["config"])
		}
		if err != nil {
			return err
		}
	}
	if len(s.kubelets) == 0 || len(s.proxies) == 0 {
		return errors.New("no kubelet and kube-proxy of this cluster run on this machine")
	}
	return nil
}

// arguments parses --name=value words.
func arguments(words []string) map[string]string {
	args := map[string]string{}
	for _, word := range words {
		if name, value, ok := strings.Cut(strings.TrimLeft(word, "-"), "="); ok {
			args[name] = value
		}
	}
	return args
}

// addKubelet reads the configuration that the kubelet runs with, by the API server.
func (s *seen) addKubelet(ctx context.Context, args map[string]string) error {
	data, err := s.Kube.CoreV1().RESTClient().Get().Resource("nodes").Name(args["hostname-override"]).SubResource("proxy").
		Suffix("configz").Do(ctx).Raw()
	if err != nil {
		return fmt.Errorf("cannot read the configuration of the kubelet of node %s: %w", args["hostname-override"], err)
	}
	var answer struct {
		KubeletConfig kubeletconfig.KubeletConfiguration `json:"kubeletconfig"`
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		return fmt.Errorf("cannot read the configuration of the kubelet of node %s: %w", args["hostname-override"], err)
	}
	s.kubelets = append(s.kubelets, kubeletSeen{args, answer.KubeletConfig})
	return nil
}

// addProxy reads the file with which the kube-proxy was started: its /configz is in a network namespace of the node, maybe.
func (s *seen) addProxy(file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("cannot read the configuration of a kube-proxy: %w", err)
	}
	var config proxyconfig.KubeProxyConfiguration
	if err := yaml.Unmarshal(data, &config); err != nil {
		return fmt.Errorf("cannot read the configuration of a kube-proxy: %w", err)
	}
	s.proxies = append(s.proxies, config)
	return nil
}
