package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/statedir"
	"github.com/k8sm/k8sm/contrib/test/scratch"
)

const callerImage = "k8sm.io/test/renewal:latest"

// callFromPod calls the API server each second with a client that has read its CA once, and with one that reads it now.
func callFromPod() {
	once, err := rest.InClusterConfig()
	if err == nil {
		err = rest.LoadTLSFiles(once)
		once.CAFile = ""
	}
	if err != nil {
		fmt.Println("failed", err)
		os.Exit(1)
	}
	for ; ; time.Sleep(time.Second) {
		now, err := rest.InClusterConfig()
		if err == nil {
			err = errors.Join(ask(once), ask(now))
		}
		if err != nil {
			fmt.Println("failed", err)
			continue
		}
		fmt.Println("called")
	}
}

// ask makes a connection of its own.
func ask(config *rest.Config) error {
	fresh := rest.CopyConfig(config)
	fresh.UserAgent = fmt.Sprint(time.Now().UnixNano())
	fresh.Timeout = 10 * time.Second
	client, err := kubernetes.NewForConfig(fresh)
	if err != nil {
		return err
	}
	_, err = client.Discovery().ServerVersion()
	return err
}

// rotate replaces all CAs while the cluster is used.
func (c *cluster) rotate(ctx context.Context, dir statedir.Dir) error {
	former, err := clientcmd.BuildConfigFromFlags("", dir.AdminKubeconfig())
	if err != nil {
		return err
	}
	formerCA, err := os.ReadFile(dir.CA())
	if err != nil {
		return err
	}
	if err := c.startCaller(ctx); err != nil {
		return err
	}
	uses, retried := patiently(c.uses())
	if err := c.whileUsed(ctx, uses, func() error { return c.steps(ctx) }); err != nil {
		return err
	}
	fmt.Printf("%d calls were made again\n", retried.Load())
	if err := scratch.Until(ctx, patience, c.calledFromPod); err != nil { // the kubelet has just started again
		return err
	}
	client, err := kubernetes.NewForConfig(former)
	if err != nil {
		return err
	}
	if _, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{}); !apierrors.IsUnauthorized(err) {
		return fmt.Errorf("a client with a certificate of the former CA gets: %w", err)
	}
	return c.noneKnows(ctx, dir, string(formerCA))
}

// patience is for what a kubelet that starts again takes from its callers: connections, and metrics until the next but one reading.
const patience = 2 * time.Minute

// patiently makes calls again that fail.
func patiently(uses map[string]func(context.Context) error) (patient map[string]func(context.Context) error, retried *atomic.Int64) {
	patient, retried = map[string]func(context.Context) error{}, new(atomic.Int64)
	for what, use := range uses {
		patient[what] = func(ctx context.Context) error {
			return scratch.Until(ctx, patience, func(ctx context.Context) error {
				err := use(ctx)
				if err != nil && ctx.Err() == nil {
					retried.Add(1)
				}
				return err
			})
		}
	}
	return patient, retried
}

// steps calls each step until it is done.
func (c *cluster) steps(ctx context.Context) error {
	for _, step := range []string{"begin", "issue", "finish"} {
		began := time.Now()
		err := scratch.Until(ctx, 5*time.Minute, func(ctx context.Context) error { return c.km(ctx, "certs", "rotate-ca", step) })
		if err != nil {
			return err
		}
		fmt.Printf("%s %s after %s\n", time.Now().Format(time.TimeOnly), step, time.Since(began).Round(time.Second))
	}
	return scratch.Until(ctx, 5*time.Minute, func(ctx context.Context) error { // until the node trusts the next CAs alone
		nodes, err := c.kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, node := range nodes.Items {
			var known api.Authorities
			if json.Unmarshal([]byte(node.Annotations[api.AnnotationAuthorities]), &known) != nil || len(known.Trusts) != 1 {
				err = fmt.Errorf("node %s knows %+v", node.Name, known)
			}
		}
		return err
	})
}

// startCaller starts a pod that calls the API server.
func (c *cluster) startCaller(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	program, err := os.ReadFile(self)
	if err != nil {
		return err
	}
	if err := scratch.ImportImage(ctx, c.Docker, callerImage, "/renewal", program); err != nil {
		return err
	}
	binding := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "caller"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: "default", Name: "default"}}}
	if _, err := c.kube.RbacV1().ClusterRoleBindings().Create(ctx, binding, metav1.CreateOptions{}); err != nil {
		return err
	}
	grace := int64(1)
	_, err = c.kube.CoreV1().Pods("default").Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "caller"},
		Spec: corev1.PodSpec{TerminationGracePeriodSeconds: &grace, Containers: []corev1.Container{{
			Name: "main", Image: callerImage, ImagePullPolicy: corev1.PullNever, Args: []string{"--in-pod"},
		}}},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	return scratch.Until(ctx, 3*time.Minute, c.calledFromPod)
}

// calledFromPod returns nil if the pod's calls have all succeeded.
func (c *cluster) calledFromPod(ctx context.Context) error {
	log, err := c.kube.CoreV1().Pods("default").GetLogs("caller", &corev1.PodLogOptions{}).DoRaw(ctx)
	if err != nil {
		return err
	}
	called := strings.Count(string(log), "called\n")
	for line := range strings.Lines(string(log)) {
		if strings.HasPrefix(line, "failed") {
			return fmt.Errorf("of %d calls from the pod, one %s", called, line)
		}
	}
	if called == 0 {
		return fmt.Errorf("the pod has not called yet")
	}
	fmt.Printf("%d calls from a pod succeeded\n", called)
	return nil
}

// noneKnows returns an error if a file of the cluster or its node has the former CA.
func (c *cluster) noneKnows(ctx context.Context, dir statedir.Dir, former string) error {
	own, err := filepath.Glob(filepath.Join(string(dir), "pki", "*"))
	if err != nil {
		return err
	}
	node, err := filepath.Glob(filepath.Join(string(dir), "nodes", "*", "*", "pki", "*"))
	if err != nil {
		return err
	}
	for _, file := range append(append(own, node...), dir.AdminKubeconfig()) {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if strings.Contains(string(text), strings.TrimSpace(former)) {
			return fmt.Errorf("%s has the former CA", file)
		}
	}
	maps, err := c.kube.CoreV1().ConfigMaps("").List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=kube-root-ca.crt"})
	for _, m := range maps.Items {
		if strings.Contains(m.Data["ca.crt"], strings.TrimSpace(former)) {
			err = fmt.Errorf("pods in %s trust the former CA", m.Namespace)
		}
	}
	return err
}
