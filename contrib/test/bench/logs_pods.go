package main

import (
	"bufio"
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api"
)

const (
	logNamespace = "shop"
	logNode      = "bench-node"
	logContainer = "app"
	// lineSize is how long each line is, in bytes, without the container runtime's format.
	lineSize = 200
	// needle is in one line of needleEvery.
	needle, needleEvery = "deadline exceeded", 100_000
)

// logPod is a pod whose log is shipped.
type logPod struct{ name, uid string }

// nodeDir has what the node has on its disk.
func (l *logsBench) nodeDir() string { return filepath.Join(string(l.dir), "node") }

// path is where the log of a container stands.
func (l *logsBench) path(p logPod, container string) string {
	return filepath.Join(l.nodeDir(), "pod-logs", logNamespace+"_"+p.name+"_"+p.uid, container, "0.log")
}

// addPods makes a node, and a Deployment whose pods are on it.
func (l *logsBench) addPods(ctx context.Context, count int) error {
	_, nodeErr := l.kube.CoreV1().Nodes().Create(ctx, plainNode(logNode), metav1.CreateOptions{})
	_, namespaceErr := l.kube.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: logNamespace}}, metav1.CreateOptions{})
	replicas, labels := int32(count), map[string]string{"app": "web"}
	template := hollowPod("web", 0)
	template.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}} // nothing runs on the node
	_, err := l.kube.AppsV1().Deployments(logNamespace).Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: template.Spec},
		},
	}, metav1.CreateOptions{})
	if err := errors.Join(nodeErr, namespaceErr, err); err != nil {
		return err
	}
	var pods *corev1.PodList
	err = await(ctx, "the Deployment did not get its pods", func() bool {
		pods, err = l.kube.CoreV1().Pods(logNamespace).List(ctx, metav1.ListOptions{})
		return err == nil && len(pods.Items) == count
	})
	if err != nil {
		return err
	}
	for i := range pods.Items {
		p := &pods.Items[i]
		err := l.kube.CoreV1().Pods(logNamespace).Bind(ctx, &corev1.Binding{
			ObjectMeta: metav1.ObjectMeta{Name: p.Name}, Target: corev1.ObjectReference{Kind: "Node", Name: logNode},
		}, metav1.CreateOptions{})
		if err != nil {
			return err
		}
		l.pods = append(l.pods, logPod{p.Name, string(p.UID)})
	}
	return nil
}

// nodeCertificate returns a certificate of the node and its key, as PEM.
func (l *logsBench) nodeCertificate() (cert, key []byte, err error) {
	return issue(l.dir.CA(), l.dir.CAKey(), &x509.Certificate{
		Subject: pkix.Name{CommonName: api.NodeUserPrefix + logNode, Organization: []string{api.NodesGroup}}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

// storeAddress returns where nodes find the store, as "host:port".
func (l *logsBench) storeAddress(ctx context.Context) (address string, err error) {
	err = await(ctx, "no log store was in the service", func() bool {
		list, err := l.kube.DiscoveryV1().EndpointSlices(api.LogsServiceNamespace).List(ctx, metav1.ListOptions{
			LabelSelector: discoveryv1.LabelServiceName + "=" + api.LogsServiceName,
		})
		if err != nil || len(list.Items) != 1 {
			return false
		}
		address = net.JoinHostPort(list.Items[0].Endpoints[0].Addresses[0], strconv.Itoa(int(*list.Items[0].Ports[0].Port)))
		return true
	})
	return address, err
}

// writeLines writes the logs of all pods but the last one, which have written for ten hours, and returns the size of what they wrote.
func (l *logsBench) writeLines(lines int) (size int64, err error) {
	random, at := rand.New(rand.NewPCG(1, 2)), time.Now().Add(-10*time.Hour).UTC()
	var line []byte
	for k, p := range l.pods[:logWriters] {
		path := l.path(p, logContainer)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return 0, err
		}
		file, err := os.Create(path)
		if err != nil {
			return 0, err
		}
		out := bufio.NewWriterSize(file, 1<<20)
		first, next := lines*k/logWriters, lines*(k+1)/logWriters
		for i := first; i < next; i++ {
			when := at.Add(time.Duration(float64(10*time.Hour) * (float64(i-first) + random.Float64()) / float64(next-first)))
			line = append(when.AppendFormat(line[:0], time.RFC3339Nano), " stdout F "...)
			line = append(webLine(line, random, i), '\n')
			_, _ = out.Write(line) // Flush tells
		}
		size += int64(next-first) * (lineSize + 1)
		if err := errors.Join(out.Flush(), file.Close()); err != nil {
			return 0, err
		}
	}
	return size, nil
}

// agents call the web server.
var agents = []string{
	"Mozilla/5.0 (X11; Linux x86_64; rv:131.0) Gecko/20100101 Firefox/131.0", "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/129.0.0.0",
	"Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15", "curl/8.10.1", "kube-probe/1.36",
}

// webLine appends line i of a web server, which has lineSize bytes.
func webLine(b []byte, random *rand.Rand, i int) []byte {
	end := len(b) + lineSize
	if i%needleEvery == 0 {
		b = fmt.Appendf(b, `level=error msg="cannot reach the database: context %s" request=%016x`, needle, random.Uint64())
	} else {
		level := "info"
		if random.IntN(100) == 0 {
			level = "warn"
		}
		b = fmt.Appendf(b, "level=%s method=GET path=/shop/cart/%d status=%d bytes=%d duration=%.3fms request=%016x client=10.%d.%d.%d agent=%q", level,
			random.IntN(50_000), []int{200, 200, 200, 304, 404}[random.IntN(5)], random.IntN(20_000), random.Float64()*100, random.Uint64(),
			random.IntN(4), random.IntN(256), random.IntN(256), agents[random.IntN(len(agents))])
	}
	const rest = " referer=https://shop.example.com/catalogue/autumn?page=2&sort=price&from=newsletter&campaign=2026-11&variant=b&more=none"
	if short := end - len(b); short > 0 {
		b = append(b, rest[:short]...)
	}
	return b[:end]
}
