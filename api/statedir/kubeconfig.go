package statedir

import (
	"cmp"
	"crypto/x509"
	"fmt"
	"path/filepath"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	certutil "k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
)

const (
	clusterName = "k8sm"
	adminName   = "admin"
)

// kubeconfigs writes a kubeconfig for each user. The administrator's has embedded certificates, so that it can be copied elsewhere. Those
// of programs name files below it, which client-go reads again when they change
// (https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/#file-references).
func (r *renewal) kubeconfigs(ca *authority) error {
	for file, user := range r.dir.users() {
		identity, err := r.leaf(user, ca)
		if err != nil {
			return err
		}
		config := r.kubeconfig(user.name)
		if user.name == adminName {
			config.Clusters[clusterName].Server = cmp.Or(r.spec.PublicURL, r.spec.ServerURL)
			if err := embed(&config, ca.trusted, identity); err != nil {
				return fmt.Errorf("cannot encode the kubeconfig of %s: %w", user.name, err)
			}
		}
		data, err := clientcmd.Write(config)
		if err != nil {
			return fmt.Errorf("cannot encode the kubeconfig of %s: %w", user.name, err)
		}
		if err := writeChanged(file, data); err != nil {
			return err
		}
	}
	return nil
}

// kubeconfig names files by paths that are relative to the kubeconfig: a copy of both works.
func (r *renewal) kubeconfig(user string) clientcmdapi.Config {
	file := func(path string) string {
		relative, err := filepath.Rel(string(r.dir), path)
		if err != nil {
			return path
		}
		return relative
	}
	c := clientcmdapi.NewConfig()
	c.Clusters[clusterName] = &clientcmdapi.Cluster{Server: r.spec.ServerURL, CertificateAuthority: file(r.dir.CA())}
	c.AuthInfos[user] = &clientcmdapi.AuthInfo{ClientCertificate: file(r.dir.cert(user)), ClientKey: file(r.dir.key(user))}
	c.Contexts[clusterName] = &clientcmdapi.Context{Cluster: clusterName, AuthInfo: user}
	c.CurrentContext = clusterName
	return *c
}

// embed puts the certificates into the kubeconfig.
func embed(c *clientcmdapi.Config, trusted []*x509.Certificate, identity *pair) (err error) {
	cluster, who := c.Clusters[clusterName], c.AuthInfos[adminName]
	cluster.CertificateAuthority, who.ClientCertificate, who.ClientKey = "", "", ""
	if cluster.CertificateAuthorityData, err = certutil.EncodeCertificates(trusted...); err != nil {
		return err
	}
	if who.ClientCertificateData, err = certutil.EncodeCertificates(identity.shown()...); err != nil {
		return err
	}
	who.ClientKeyData, err = keyutil.MarshalPrivateKeyToPEM(identity.key)
	return err
}

// Admin is how programs beside the control plane call the API server as the administrator. Unlike AdminKubeconfig, it leads to renewed
// certificates as long as the program runs.
func (d Dir) Admin() (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", d.AdminKubeconfig())
	if err != nil {
		return nil, fmt.Errorf("cannot read the administrator's kubeconfig: %w", err)
	}
	config.TLSClientConfig = rest.TLSClientConfig{CAFile: d.CA(), CertFile: d.cert(adminName), KeyFile: d.key(adminName)}
	return config, nil
}
