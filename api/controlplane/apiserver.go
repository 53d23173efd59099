package controlplane

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/wait"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	cliflag "k8s.io/component-base/cli/flag"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
	"k8s.io/kubernetes/cmd/kube-apiserver/app/options"

	"github.com/k8sm/k8sm/api/statedir"
)

// apiServer returns a function that runs the stock kube-apiserver on the listener. It is configured by its flags
// (https://kubernetes.io/docs/reference/command-line-tools-reference/kube-apiserver/), which change less between Kubernetes versions
// than its Go types.
func (c Config) apiServer(l net.Listener, etcd statedir.Etcd) (func(context.Context) error, error) {
	authentication, err := anonymousHealth()
	if err != nil {
		return nil, fmt.Errorf("cannot encode the authentication configuration: %w", err)
	}
	if err := c.StateDir.WriteAuthenticationConfig(authentication); err != nil {
		return nil, err
	}
	o := options.NewServerRunOptions()
	if err := parse(o.Flags(), c.apiServerFlags(etcd)); err != nil {
		return nil, fmt.Errorf("cannot set up kube-apiserver: %w", err)
	}
	o.SecureServing.Listener = l
	o.SecureServing.BindPort = l.Addr().(*net.TCPAddr).Port
	if err := o.GenericServerRunOptions.ComponentGlobalsRegistry.Set(); err != nil {
		return nil, fmt.Errorf("cannot set kube-apiserver's feature gates: %w", err)
	}
	// As in the stock commands: do not log warnings about deprecated APIs for these programs.
	rest.SetDefaultWarningHandler(rest.NoWarnings{})
	return func(ctx context.Context) error {
		completed, err := o.Complete(ctx)
		if err != nil {
			return fmt.Errorf("cannot set up kube-apiserver: %w", err)
		}
		if err := utilerrors.NewAggregate(completed.Validate()); err != nil {
			return fmt.Errorf("cannot set up kube-apiserver: %w", err)
		}
		if err := app.Run(ctx, completed); err != nil {
			return fmt.Errorf("kube-apiserver stopped: %w", err)
		}
		return nil
	}, nil
}

func (c Config) apiServerFlags(etcd statedir.Etcd) flags {
	d := c.StateDir
	issuer := "https://kubernetes.default.svc." + c.ClusterDomain
	f := flags{
		"advertise-address": c.Advertised(), "bind-address": c.BindAddress,
		"service-cluster-ip-range": c.ServiceCIDR, "allow-privileged": "true", "profiling": "false",
		"service-node-port-range":   c.Minions.NodePorts,
		"enable-aggregator-routing": strconv.FormatBool(c.AggregatorRouting),

		"etcd-servers": strings.Join(etcd.Endpoints, ","),
		"etcd-cafile":  etcd.CAFile, "etcd-certfile": etcd.CertFile, "etcd-keyfile": etcd.KeyFile,
		"storage-media-type": "application/json", // `km etcdctl get` is readable

		"client-ca-file": d.CA(), "enable-bootstrap-token-auth": "true",
		"authentication-config": d.AuthenticationConfig(), "authorization-mode": "Node,RBAC",
		"enable-admission-plugins":    "NodeRestriction",
		"service-account-issuer":      issuer,
		"service-account-key-file":    d.ServiceAccountKey(),
		"api-audiences":               issuer,
		"requestheader-allowed-names": statedir.FrontProxyUser, "requestheader-client-ca-file": d.FrontProxyCA(),
		"requestheader-username-headers": "X-Remote-User", "requestheader-group-headers": "X-Remote-Group",
		"requestheader-extra-headers-prefix": "X-Remote-Extra-",

		"kubelet-certificate-authority":   d.KubeletTrust(),
		"kubelet-preferred-address-types": "InternalIP,Hostname",
	}
	f["service-account-signing-key-file"] = d.ServiceAccountKey()
	f["tls-cert-file"], f["tls-private-key-file"] = d.Pair(statedir.APIServer)
	f["kubelet-client-certificate"], f["kubelet-client-key"] = d.Pair(statedir.KubeletClient)
	f["proxy-client-cert-file"], f["proxy-client-key-file"] = d.Pair(statedir.FrontProxyClient)
	if net.ParseIP(c.Advertised()).IsLoopback() {
		// A service cannot have a loopback endpoint, so the service "kubernetes" has none.
		f["endpoint-reconciler-type"] = "none"
	}
	return f
}

// anonymousHealth lets unauthenticated callers get only the server's health
// (https://kubernetes.io/docs/reference/access-authn-authz/authentication/#anonymous-authenticator-configuration).
func anonymousHealth() ([]byte, error) {
	return json.Marshal(apiserverv1.AuthenticationConfiguration{
		TypeMeta: metav1.TypeMeta{APIVersion: apiserverv1.SchemeGroupVersion.String(), Kind: "AuthenticationConfiguration"},
		Anonymous: &apiserverv1.AnonymousAuthConfig{
			Enabled:    true,
			Conditions: []apiserverv1.AnonymousAuthCondition{{Path: "/livez"}, {Path: "/readyz"}, {Path: "/healthz"}},
		},
	})
}

// flags are a stock program's flags by name; an empty value leaves the program's default.
type flags map[string]string

// parse sets the program's flags as its command line would.
func parse(sets cliflag.NamedFlagSets, values flags) error {
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	for _, set := range sets.FlagSets {
		fs.AddFlagSet(set)
	}
	for name, value := range values {
		if value == "" {
			continue
		}
		if err := fs.Set(name, value); err != nil {
			return err
		}
	}
	return nil
}

// waitReady returns when the API server is ready.
func waitReady(ctx context.Context, client kubernetes.Interface) error {
	ready := func(ctx context.Context) (bool, error) {
		return client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error() == nil, nil
	}
	if err := wait.PollUntilContextCancel(ctx, 100*time.Millisecond, true, ready); err != nil {
		return fmt.Errorf("the API server did not become ready: %w", context.Cause(ctx))
	}
	return nil
}
