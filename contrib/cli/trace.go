package cli

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/cert"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/podtrace"
	"github.com/k8sm/k8sm/api/podtrace/tracehttp"
	"github.com/k8sm/k8sm/scheduler/status"
)

func traceCommand(c *common) *cobra.Command {
	cmd := &cobra.Command{Use: "trace", Short: "Show what a pod waited for on its way to running"}
	cmd.AddCommand(tracePodCommand(c))
	return cmd
}

func tracePodCommand(c *common) *cobra.Command {
	var s showing
	cmd := &cobra.Command{
		Use: "pod NAME...", Short: "Show what a pod waited for on its way to running, and how long", Args: cobra.MinimumNArgs(1),
		Long: `Asks the leading scheduler and the pod's minion when each did what for the pod, and prints it in the order of time. Both keep that in
memory: of the last 2,000 pods and the last 220 pods of a node, until they end. The command asks as the cluster's administrator, whose
kubeconfig is in --state-dir; the scheduler's address comes from etcd, unless --status-address gives it.`,
		Example: "  km trace pod web\n  km trace pod -n shop web-0 web-1\n  km trace pod web -o json",
		RunE: func(cmd *cobra.Command, args []string) error {
			if s.output != "" && s.output != "json" {
				return usage(fmt.Errorf("cannot use --output=%s: give json", s.output))
			}
			if err := usage(checkAddresses(named{"status-address", s.address})); err != nil {
				return err
			}
			t, err := newTracer(cmd.Context(), c, s)
			if err != nil {
				return err
			}
			var problems error
			for i, name := range args {
				if i > 0 && s.output == "" {
					fmt.Fprintln(cmd.OutOrStdout())
				}
				story, err := t.read(cmd.Context(), api.PodKey{Namespace: s.namespace, Name: name})
				if err == nil {
					err = story.print(cmd.OutOrStdout(), s.output)
				}
				problems = errors.Join(problems, err)
			}
			return problems
		},
	}
	fs := cmd.Flags()
	fs.StringVarP(&s.output, "output", "o", "", "output `format`: json (default: a timeline)")
	fs.StringVarP(&s.namespace, "namespace", "n", metav1.NamespaceDefault, "`namespace` of the pods")
	s.addSchedulerFlags(fs)
	return cmd
}

// tracer asks for the spans of pods.
type tracer struct {
	kube      kubernetes.Interface
	scheduler *status.Client // nil if none is known
	obstacle  error          // why
	nodes     *http.Client
}

func newTracer(ctx context.Context, c *common, s showing) (*tracer, error) {
	admin, err := clientcmd.BuildConfigFromFlags("", c.dir().AdminKubeconfig())
	if err != nil {
		return nil, c.dir().NoCluster()
	}
	kube, err := kubernetes.NewForConfig(admin)
	if err != nil {
		return nil, fmt.Errorf("cannot use the administrator's kubeconfig: %w", err)
	}
	object, err := kube.CoreV1().ConfigMaps(api.MinionConfigNamespace).Get(ctx, api.MinionConfigName, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("cannot read by which CA minions are known: %w", err)
	}
	minions, err := api.ReadMinionConfig(object.Data)
	if err != nil {
		return nil, err
	}
	authority, err := cert.NewPoolFromBytes(minions.KubeletServingCA)
	if err != nil {
		return nil, fmt.Errorf("cannot use the CA of minions' certificates: %w", err)
	}
	pair, err := tls.X509KeyPair(admin.CertData, admin.KeyData)
	if err != nil {
		return nil, fmt.Errorf("cannot use the administrator's certificate: %w", err)
	}
	t := &tracer{kube: kube, nodes: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{
		MinVersion: tls.VersionTLS12, RootCAs: authority, Certificates: []tls.Certificate{pair},
	}}}}
	t.scheduler, t.obstacle = statusClient(ctx, c.dir(), s)
	return t, nil
}

// story is what is known of a pod's start.
type story struct {
	Namespace string            `json:"namespace"`
	Pod       string            `json:"pod"`
	UID       types.UID         `json:"uid"`
	Node      string            `json:"node,omitempty"`
	Timeline  podtrace.Timeline `json:"timeline"`
	// Missing says what is not in the timeline, and why.
	Missing []string `json:"missing,omitempty"`
	// Seconds are the moments that the API has.
	Seconds []podtrace.Span `json:"seconds,omitempty"`
}

// read asks the API, the scheduler and the minion.
func (t *tracer) read(ctx context.Context, key api.PodKey) (*story, error) {
	pod, err := t.kube.CoreV1().Pods(key.Namespace).Get(ctx, key.Name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("cannot get pod %s: %w", key, err)
	}
	gone := err != nil
	s := &story{Namespace: key.Namespace, Pod: key.Name, UID: pod.UID, Node: pod.Spec.NodeName}
	traces, problem := t.askScheduler(ctx, key)
	scheduler := s.pick(traces)
	if scheduler != nil {
		s.UID, s.Node = scheduler.UID, cmp.Or(s.Node, scheduler.Node)
	}
	switch {
	case scheduler != nil:
	case problem != nil && s.Node == "":
		return nil, fmt.Errorf("cannot tell how pod %s was scheduled: %w", key, problem)
	case gone:
		return nil, fmt.Errorf("pod %s not found, and the scheduler has no spans of one with that name", key)
	case s.Node == "":
		return nil, fmt.Errorf("pod %s waits, and this scheduler has not launched it yet: km queue says why", key)
	case problem == nil:
		problem = errors.New("it has none of this pod: it began to lead after the pod's start, or has launched many pods since")
	}
	s.lacks("the spans of the scheduler", problem)
	if s.Node == "" {
		s.Timeline = podtrace.Join(scheduler, nil, time.Now())
		return s, nil
	}
	traces, problem = t.askMinion(ctx, s.Node, key)
	node := s.pick(traces)
	if node == nil && problem == nil {
		problem = errors.New("it has none of this pod: it began after the pod's start, or has run many pods since")
	}
	s.lacks("the spans of the minion of node "+s.Node, problem)
	if len(s.Missing) > 0 && !gone {
		s.Seconds = secondsOf(pod)
	}
	if scheduler != nil || node != nil {
		s.Timeline = podtrace.Join(scheduler, node, time.Now())
	}
	return s, nil
}

// pick returns the trace of the pod; of the latest one if its UID is not known.
func (s *story) pick(traces []podtrace.Trace) *podtrace.Trace {
	for i := range traces {
		if s.UID == "" || traces[i].UID == s.UID {
			return &traces[i]
		}
	}
	return nil
}

func (s *story) lacks(what string, problem error) {
	if problem != nil {
		s.Missing = append(s.Missing, what+": "+problem.Error())
	}
}

func (t *tracer) askScheduler(ctx context.Context, pod api.PodKey) ([]podtrace.Trace, error) {
	if t.scheduler == nil {
		return nil, t.obstacle
	}
	return t.scheduler.Traces(ctx, pod)
}

func (t *tracer) askMinion(ctx context.Context, name string, pod api.PodKey) (traces []podtrace.Trace, err error) {
	node, err := t.kube.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("cannot find it: %w", err)
	}
	address, err := minionAddress(node)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+tracehttp.Path(pod), nil)
	if err != nil {
		return nil, fmt.Errorf("cannot ask it: %w", err)
	}
	response, err := t.nodes.Do(request)
	if err != nil {
		return nil, fmt.Errorf("cannot ask it: %w", err)
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusOK:
		if err := json.NewDecoder(response.Body).Decode(&traces); err != nil {
			return nil, fmt.Errorf("cannot read its answer: %w", err)
		}
		return traces, nil
	case http.StatusNotFound:
		return nil, errors.New("it is of an earlier version, which keeps none")
	}
	said, _ := io.ReadAll(io.LimitReader(response.Body, 1000)) // the status says enough
	return nil, fmt.Errorf("it answers %s: %s", response.Status, strings.TrimSpace(string(said)))
}

// minionAddress returns where a node's minion serves its status.
func minionAddress(node *corev1.Node) (string, error) {
	port := node.Annotations[api.AnnotationStatusPort]
	for _, a := range node.Status.Addresses {
		if a.Type == corev1.NodeInternalIP && port != "" {
			return net.JoinHostPort(a.Address, port), nil
		}
	}
	return "", errors.New("the node has no address of it yet")
}

// secondsOf returns the moments that the API has of a pod's start.
func secondsOf(pod *corev1.Pod) []podtrace.Span {
	moments := []podtrace.Span{{What: "the pod was created", Begin: pod.CreationTimestamp.Time}}
	for _, c := range pod.Status.Conditions {
		if c.Status == corev1.ConditionTrue {
			moments = append(moments, podtrace.Span{What: string(c.Type), Begin: c.LastTransitionTime.Time})
		}
	}
	for _, c := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		if c.State.Running != nil {
			moments = append(moments, podtrace.Span{What: "container " + c.Name + " was started", Begin: c.State.Running.StartedAt.Time})
		}
	}
	slices.SortStableFunc(moments, func(a, b podtrace.Span) int { return a.Begin.Compare(b.Begin) })
	for i := range moments {
		moments[i].Who, moments[i].End = podtrace.APIServer, moments[i].Begin
	}
	return moments
}
