package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"syscall"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/cmd/kube-scheduler/app"
)

// stockVariable has the flags of the stock kube-scheduler as JSON, in the process that plays it.
const stockVariable = "K8SM_BENCH_KUBE_SCHEDULER"

// playKubeScheduler is the stock command.
func playKubeScheduler(text string) error {
	var flags []string
	if err := json.Unmarshal([]byte(text), &flags); err != nil {
		return err
	}
	fmt.Println("started") // as roles do; /readyz tells more
	command := app.NewSchedulerCommand()
	command.SetArgs(flags)
	return command.Execute()
}

// stockOnHollow is the stock kube-scheduler as users run it, but without its limit of 50 calls a second, on plain nodes. The bench renews
// their leases like kubelets, because our side does so too.
type stockOnHollow struct {
	*hollow
	leases    []*coordinationv1.Lease
	end       context.CancelFunc // of the kubelets
	kubelets  sync.WaitGroup
	address   string
	scheduler *program // nil while it is paused
}

func (s *stockOnHollow) start(ctx context.Context) error {
	if err := s.makeNodes(ctx); err != nil {
		return err
	}
	nodes, end := context.WithCancel(ctx)
	s.end = end
	s.kubelets.Go(func() { s.renewLeases(nodes) })
	return s.resume(ctx)
}

// resume starts the scheduler, and returns when its cache is filled.
func (s *stockOnHollow) resume(ctx context.Context) (err error) {
	if s.address, err = freeAddress(); err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(s.address)
	if err != nil {
		return err
	}
	admin := s.dir.AdminKubeconfig()
	text, err := json.Marshal([]string{
		"--kubeconfig=" + admin, "--authentication-kubeconfig=" + admin, "--authorization-kubeconfig=" + admin,
		"--bind-address=" + host, "--secure-port=" + port, "--kube-api-qps=-1",
	})
	if err != nil {
		return err
	}
	if s.scheduler, _, err = startRole(s.log, stockVariable, string(text)); err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} //nolint:gosec // it signs its own certificate
	poll(ctx, func() bool { return s.scheduler.ended() || ready(ctx, client, "https://"+s.address) })
	if s.scheduler.ended() || ctx.Err() != nil {
		return errors.New("kube-scheduler did not become ready in time")
	}
	return nil
}

// ready asks a server whether it is.
func ready(ctx context.Context, client *http.Client, url string) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/readyz", nil)
	if err != nil {
		return false
	}
	response, err := client.Do(request)
	if err != nil {
		return false
	}
	return response.StatusCode == http.StatusOK && response.Body.Close() == nil
}

func (s *stockOnHollow) pause() error {
	if s.scheduler == nil {
		return nil
	}
	err := s.scheduler.end(syscall.SIGTERM)
	s.scheduler = nil
	return err
}

func (s *stockOnHollow) stop() error {
	if s.end != nil {
		s.end()
	}
	s.kubelets.Wait()
	return s.pause()
}

func (s *stockOnHollow) processes() map[string]int {
	return map[string]int{"scheduler": s.scheduler.pid()}
}

func (s *stockOnHollow) profile() string { return "https://" + s.address }

// makeNodes makes the nodes and their leases, as a thousand kubelets would.
func (s *stockOnHollow) makeNodes(ctx context.Context) error {
	s.leases = make([]*coordinationv1.Lease, s.nodes)
	return parallel(ctx, s.nodes, func(ctx context.Context, i int) error {
		node := plainNode("plain-" + strconv.Itoa(i))
		if _, err := s.kube.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil {
			return err
		}
		seconds, now := int32(40), metav1.NowMicro()
		lease, err := s.kube.CoordinationV1().Leases(corev1.NamespaceNodeLease).Create(ctx, &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Name: node.Name},
			Spec:       coordinationv1.LeaseSpec{HolderIdentity: &node.Name, LeaseDurationSeconds: &seconds, RenewTime: &now},
		}, metav1.CreateOptions{})
		s.leases[i] = lease
		return err
	})
}

// renewLeases renews each lease every ten seconds, by one write, until ctx ends.
func (s *stockOnHollow) renewLeases(ctx context.Context) {
	every := time.NewTicker(10 * time.Second)
	defer every.Stop()
	for {
		select {
		case <-every.C:
		case <-ctx.Done():
			return
		}
		err := parallel(ctx, s.nodes, func(ctx context.Context, i int) (err error) {
			now := metav1.NowMicro()
			s.leases[i].Spec.RenewTime = &now
			s.leases[i], err = s.kube.CoordinationV1().Leases(corev1.NamespaceNodeLease).Update(ctx, s.leases[i], metav1.UpdateOptions{})
			return err
		})
		if err != nil && ctx.Err() == nil {
			klog.ErrorS(err, "cannot renew the leases of the plain nodes")
			return
		}
	}
}

func plainNode(name string) *corev1.Node {
	list := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("8Gi"),
		corev1.ResourceEphemeralStorage: resource.MustParse("100000Mi"), corev1.ResourcePods: resource.MustParse("110"),
	}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
			corev1.LabelHostname: name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64",
		}},
		Status: corev1.NodeStatus{
			Capacity: list, Allocatable: list,
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "Hollow"}},
		},
	}
}
