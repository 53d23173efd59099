package minion

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/k8sm/k8sm/api"
	protocol "github.com/k8sm/k8sm/api/logs"
	"github.com/k8sm/k8sm/executor/kube"
	"github.com/k8sm/k8sm/minion/logs"
	"github.com/k8sm/k8sm/minion/supervise"
)

const (
	// dialTimeout bounds a connection to a log store.
	dialTimeout = 10 * time.Second
	// lastLines is how long a node that stops waits for the last lines of its containers to be shipped. What is not shipped then is when
	// the node starts again.
	lastLines = time.Second
)

// prepareLogs makes the directory of the components' logs, or removes all that is kept for log stores if the cluster has none.
func (n *node) prepareLogs() error {
	if !n.cluster.Logs {
		return errors.Join(os.RemoveAll(n.files.logs()), os.RemoveAll(n.files.nodeLogs()))
	}
	if err := os.MkdirAll(n.files.nodeLogs(), 0o700); err != nil {
		return fmt.Errorf("cannot keep the logs of the node's components: %w", err)
	}
	logrus.SetOutput(n.files.component(logrus.StandardLogger().Out, "minion"))
	return nil
}

// component returns a writer to the log of a component of the node, and to what is shipped of it, if logs are.
func (l layout) component(log io.Writer, name string) io.Writer {
	if _, err := os.Stat(l.nodeLogs()); err != nil {
		return log
	}
	return io.MultiWriter(log, logs.NewComponent(l.nodeLogs(), name))
}

// startLogs starts to ship the logs of containers and components. It returns nil if the cluster has no log stores.
func (n *node) startLogs(ctx context.Context, api kubernetes.Interface, pods *kube.Pods) *supervise.Part {
	if !n.cluster.Logs {
		return nil
	}
	return supervise.Start(ctx, "the shipping of logs", func(ctx context.Context) error {
		var at storeAddresses
		dropped := newDroppedLogs(n.boot.Node, n.log)
		client, err := n.storesClient(&at)
		if err != nil {
			return err
		}
		stores := logs.Stores{
			Config: logs.Config{
				Logs: n.files.podLogs(), Components: n.files.nodeLogs(), Dir: n.files.logs(), Log: n.log,
				Multiline: func(namespace, pod, uid string) (string, bool) { return multiline(pods.List(), namespace, pod, uid) },
			},
			Connect:  func(name string) logs.Store { return logs.NewClient("https://"+name, client) },
			Registry: n.metrics,
			Dropped:  dropped.Add,
		}
		names := make(chan []string)
		parts, ctx := errgroup.WithContext(ctx)
		parts.Go(func() error { return watchStores(ctx, api, &at, names) })
		parts.Go(func() error { return stores.Run(ctx, names) })
		parts.Go(func() error { return dropped.Run(ctx, api) })
		return parts.Wait()
	})
}

// multiline returns the pod's annotation, and whether the pod is known.
func multiline(pods []*corev1.Pod, namespace, name, uid string) (string, bool) {
	for _, p := range pods {
		// The directory of a static pod has the hash of its manifest in place of the mirror pod's UID.
		if p.Namespace == namespace && p.Name == name && (string(p.UID) == uid || p.Annotations[corev1.MirrorPodAnnotationKey] == uid) {
			return p.Annotations[api.AnnotationLogMultiline], true
		}
	}
	return "", false
}

// storeAddresses has the addresses of the log stores in the service, by name.
type storeAddresses struct {
	mu sync.Mutex // guards of
	of map[string]string
}

func (a *storeAddresses) set(of map[string]string) (changed bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	changed = a.of == nil || !maps.Equal(a.of, of)
	a.of = of
	return changed
}

func (a *storeAddresses) get(name string) (string, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	address, ok := a.of[name]
	return address, ok
}

// watchStores sends the names of the log stores in the service, again whenever they change, until ctx ends.
func watchStores(ctx context.Context, client kubernetes.Interface, at *storeAddresses, names chan<- []string) error {
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(api.LogsServiceNamespace),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.LabelSelector = discoveryv1.LabelServiceName + "=" + api.LogsServiceName
		}))
	endpoints := factory.Discovery().V1().EndpointSlices()
	changed := make(chan struct{}, 1) // coalesces bursts of changes
	err := onChange(endpoints.Informer(), func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	if err != nil {
		return fmt.Errorf("cannot watch the log stores: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	defer cancel() // before the informers are awaited
	if !cache.WaitForCacheSync(ctx.Done(), endpoints.Informer().HasSynced) {
		return ctx.Err()
	}
	for {
		list, err := endpoints.Lister().List(labels.Everything())
		if err != nil {
			return fmt.Errorf("cannot list the log stores: %w", err)
		}
		if of := addressesOf(list); at.set(of) {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case names <- slices.Sorted(maps.Keys(of)):
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// addressesOf returns the addresses of the servers that have these slices, by name.
func addressesOf(list []*discoveryv1.EndpointSlice) map[string]string {
	of := map[string]string{}
	for _, s := range list {
		name := s.Labels[api.LabelLogsServer]
		if name == "" || len(s.Endpoints) == 0 || len(s.Endpoints[0].Addresses) == 0 || len(s.Ports) == 0 || s.Ports[0].Port == nil {
			continue
		}
		of[name] = net.JoinHostPort(s.Endpoints[0].Addresses[0], strconv.Itoa(int(*s.Ports[0].Port)))
	}
	return of
}

// storesClient returns a client for URLs with the names of log stores as hosts. It connects to them wherever they are, with the node's
// certificate.
func (n *node) storesClient(at *storeAddresses) (*http.Client, error) {
	direct := net.Dialer{Timeout: dialTimeout}
	client, err := rest.HTTPClientFor(&rest.Config{
		TLSClientConfig: rest.TLSClientConfig{
			CAFile: n.files.ca(), CertFile: n.files.certificate(), KeyFile: n.files.certificate(), ServerName: protocol.ServerName,
		},
		Proxy: func(*http.Request) (*url.URL, error) { return nil, nil },
		Dial: func(ctx context.Context, _, host string) (net.Conn, error) {
			name, _, _ := strings.Cut(host, ":")
			address, ok := at.get(name)
			if !ok {
				return nil, fmt.Errorf("the log store %s is not in the service %s/%s", name, api.LogsServiceNamespace, api.LogsServiceName)
			}
			return direct.DialContext(ctx, "tcp", address)
		},
	})
	if err != nil {
		return nil, fmt.Errorf("cannot use the node's certificate: %w", err)
	}
	return client, nil
}
