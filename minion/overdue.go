package minion

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"k8s.io/client-go/kubernetes"
	certutil "k8s.io/client-go/util/cert"
)

// watchProblems returns a function that returns the problems that there are now.
func (n *node) watchProblems(client kubernetes.Interface, wrongClocks func() []string) func(context.Context) []string {
	network := n.watchNetwork(client)
	return func(ctx context.Context) []string {
		now := time.Now()
		return slices.Concat(network(ctx), n.syncs.lasting(now), wrongClocks(), overdue(n.certificates(), now))
	}
}

// certificates are the node's, by their names in metrics.
func (n *node) certificates() map[string]string {
	return map[string]string{"node": n.files.certificate(), "node-server": n.files.servingCertificate()}
}

// overdue describes the certificates that were not renewed: kubelets do that before nine tenths of their life
// (https://kubernetes.io/docs/tasks/tls/certificate-rotation/). Files that cannot be read are left out.
func overdue(files map[string]string, now time.Time) (problems []string) {
	for _, name := range slices.Sorted(maps.Keys(files)) {
		certs, err := certutil.CertsFromFile(files[name])
		if err != nil {
			continue
		}
		if end := certs[0].NotAfter; end.Sub(now) < end.Sub(certs[0].NotBefore)/12 {
			problems = append(problems, fmt.Sprintf("the certificate %s ends %s and was not renewed: kubectl get csr and kubelet.log say why", name, end.UTC().Format(time.RFC3339)))
		}
	}
	return problems
}
