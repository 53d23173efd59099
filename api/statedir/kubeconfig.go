package statedir

import (
	"fmt"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	certutil "k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
)

const clusterName = "k8sm"

// kubeconfigs writes a kubeconfig for each user, with embedded certificates so that it can be copied elsewhere
// (https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/).
func (d Dir) kubeconfigs(spec Spec, ca *pair) error {
	for file, user := range d.users() {
		identity, err := d.leaf(user, ca, spec.Now)
		if err != nil {
			return err
		}
		data, err := kubeconfig(spec.ServerURL, user.name, ca, identity)
		if err != nil {
			return fmt.Errorf("cannot encode the kubeconfig of %s: %w", user.name, err)
		}
		if err := writeFile(file, data); err != nil {
			return err
		}
	}
	return nil
}

func kubeconfig(server, user string, ca, identity *pair) ([]byte, error) {
	caData, err := certutil.EncodeCertificates(ca.cert)
	if err != nil {
		return nil, err
	}
	certData, err := certutil.EncodeCertificates(identity.cert)
	if err != nil {
		return nil, err
	}
	keyData, err := keyutil.MarshalPrivateKeyToPEM(identity.key)
	if err != nil {
		return nil, err
	}
	c := clientcmdapi.NewConfig()
	c.Clusters[clusterName] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: caData}
	c.AuthInfos[user] = &clientcmdapi.AuthInfo{ClientCertificateData: certData, ClientKeyData: keyData}
	c.Contexts[clusterName] = &clientcmdapi.Context{Cluster: clusterName, AuthInfo: user}
	c.CurrentContext = clusterName
	return clientcmd.Write(*c)
}
