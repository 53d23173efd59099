package mesos_test

import (
	"encoding/json"
	"testing"

	"github.com/k8sm/k8sm/api/mesoshttp/mesoshttptest"
	"github.com/k8sm/k8sm/contrib/localmesos"
)

func TestPodRunsOnAMesosThatSpeaksTLSWithItsOwnCiphers(t *testing.T) {
	t.Parallel()
	authority := mesoshttptest.NewAuthority(t)
	cert, key := authority.Pair("127.0.0.1")
	clientCert, clientKey := authority.Pair("client")
	for _, c := range []struct {
		name        string
		strict      bool              // clients need certificates
		environment map[string]string // that the agents give to executors
		flags       []string          // of the scheduler
	}{
		{name: "executors are told nothing"},
		{name: "executors are told to verify", environment: map[string]string{
			"LIBPROCESS_SSL_ENABLED": "true", "LIBPROCESS_SSL_VERIFY_SERVER_CERT": "true", "LIBPROCESS_SSL_CA_FILE": authority.File,
		}},
		{name: "clients show certificates", strict: true, flags: []string{"--mesos-cert-file=" + clientCert, "--mesos-key-file=" + clientKey},
			environment: map[string]string{"LIBPROCESS_SSL_ENABLED": "1", "LIBPROCESS_SSL_CERT_FILE": clientCert, "LIBPROCESS_SSL_KEY_FILE": clientKey}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			environment, err := json.Marshal(c.environment)
			if err != nil {
				t.Fatal(err)
			}
			cluster := newClusterWith(t, func(cfg *localmesos.Config) {
				cfg.SSL.CertFile, cfg.SSL.KeyFile = cert, key
				if c.strict {
					cfg.SSL.CAFile, cfg.SSL.RequireClientCert = authority.File, true
				}
				if c.environment != nil {
					cfg.ExecutorEnvironmentVariables = string(environment)
				}
			}, append(c.flags, "--mesos-ca-file="+authority.File)...)
			cluster.master = "https://" + cluster.mesos.MasterAddr()
			cluster.schedule()
			cluster.createPod("web", "500m")
			cluster.wait("web", "a node", bound)
			cluster.deletePod("web")
			cluster.awaitTask("uid-web.1", "", cluster.scheduled)
		})
	}
}
