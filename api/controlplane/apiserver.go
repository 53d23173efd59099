package controlplane

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/server/flagz"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	basecompatibility "k8s.io/component-base/compatibility"
	"k8s.io/kubernetes/cmd/kube-apiserver/app/options"
	"k8s.io/kubernetes/pkg/serviceaccount"

	"github.com/k8sm/k8sm/api/statedir"
)

// apiServer returns a function that runs the stock kube-apiserver on the listener. It is configured by its flags
// (https://kubernetes.io/docs/reference/command-line-tools-reference/kube-apiserver/), which change less between Kubernetes versions
// than its Go types.
func (c Config) apiServer(l net.Listener, etcd statedir.Etcd) (func(context.Context) error, error) {
	authentication, err := c.authentication()
	if err != nil {
		return nil, err
	}
	if err := c.StateDir.WriteAuthenticationConfig(authentication); err != nil {
		return nil, err
	}
	o, err := c.apiServerOptions(c.apiServerFlags(etcd))
	if err != nil {
		return nil, err
	}
	o.SecureServing.Listener = l
	o.SecureServing.BindPort = l.Addr().(*net.TCPAddr).Port
	// As in the stock commands: do not log warnings about deprecated APIs for these programs.
	rest.SetDefaultWarningHandler(rest.NoWarnings{})
	return func(ctx context.Context) error {
		completed, err := completeAPIServer(ctx, o)
		if err != nil {
			return fmt.Errorf("cannot set up kube-apiserver: %w", err)
		}
		if err := runAPIServer(ctx, completed); err != nil {
			return fmt.Errorf("kube-apiserver stopped: %w", err)
		}
		return nil
	}, nil
}

// apiServerOptions returns kube-apiserver's options with our flags and the operator's. It sets the process's feature gates.
func (c Config) apiServerOptions(ours flags) (*options.ServerRunOptions, error) {
	p := apiServerProgram()
	args, err := p.parse(c.APIServerArgs, ours)
	if err != nil {
		return nil, err
	}
	if err := checkLists(p, args); err != nil {
		return nil, err
	}
	gates, err := c.featureGates()
	if err != nil {
		return nil, err
	}
	args, _ = without(args, gatesFlag)
	o := options.NewServerRunOptions()
	sets := o.Flags()
	o.Flagz = flagz.NamedFlagSetsReader{FlagSets: sets}
	ours = maps.Clone(ours)
	ours[gatesFlag] = gates
	if err := p.set(merged(sets), ours, args); err != nil {
		return nil, err
	}
	if err := o.GenericServerRunOptions.ComponentGlobalsRegistry.Set(); err != nil {
		return nil, fmt.Errorf("cannot set kube-apiserver's feature gates: %w", err)
	}
	return o, nil
}

// checkAPIServer finds errors in what the operator passes to kube-apiserver, before anything exists that it needs.
func (c Config) checkAPIServer() error {
	ours := c.apiServerFlags(statedir.Etcd{Endpoints: []string{"https://127.0.0.1"}})
	delete(ours, "service-account-signing-key-file")
	o, err := c.apiServerOptions(ours)
	if err != nil {
		return err
	}
	if _, err := c.authentication(); err != nil {
		return err
	}
	if err := c.checkAdmissionConfig(o); err != nil {
		return err
	}
	o.ServiceAccountIssuer = noTokens{} // in the place of that file
	if ours[tracingFlag] != "" {
		o.Traces.ConfigFile = "" // it is written later
	}
	o.SecureServing.BindPort = max(o.SecureServing.BindPort, 1)
	if _, err := completeAPIServer(context.Background(), o); err != nil {
		return fmt.Errorf("cannot use --%s: %w", apiServerProgram().flag, err)
	}
	return nil
}

// noTokens issues no tokens.
type noTokens struct{ serviceaccount.TokenGenerator }

func completeAPIServer(ctx context.Context, o *options.ServerRunOptions) (options.CompletedOptions, error) {
	completed, err := o.Complete(ctx)
	if err == nil {
		err = utilerrors.NewAggregate(completed.Validate())
	}
	return completed, err
}

// requiredAdmission are the admission plugins that guard what nodes may write and what k8sm's admission policies say.
var requiredAdmission = []string{"NodeRestriction", "ServiceAccount", "ValidatingAdmissionPolicy"}

// checkLists checks what is added to our lists.
func checkLists(p program, args []arg) error {
	for _, a := range args {
		for _, word := range strings.Split(a.value, ",") {
			switch {
			case a.name == "authorization-mode" && (word == "AlwaysAllow" || word == "AlwaysDeny"):
				return p.refuse(a, "it would decide everything that Node and RBAC leave open")
			case a.name == "disable-admission-plugins" && slices.Contains(requiredAdmission, word):
				return p.refuse(a, "a cluster is not safe without this plugin: a node could write what others trust")
			}
		}
	}
	return nil
}

// gatesFlag is the flag of all stock programs for feature gates.
const gatesFlag = "feature-gates"

// featureGates returns the feature gates of this process: kube-apiserver and kube-controller-manager share them.
func (c Config) featureGates() (string, error) {
	// An external etcd may have several controller managers; see controllerManagerFlags.
	gates := []string{"ControllerManagerReleaseLeaderElectionLockOnExit=" + strconv.FormatBool(!c.embeds())}
	for _, given := range []struct {
		program
		list []string
	}{{apiServerProgram(), c.APIServerArgs}, {controllerManagerProgram(), c.ControllerManagerArgs}} {
		args, err := given.parse(given.list, nil)
		if err != nil {
			return "", err
		}
		_, values := without(args, gatesFlag)
		for _, value := range values {
			value = strings.ReplaceAll(value, basecompatibility.DefaultKubeComponent+":", "")
			if err := utilfeature.DefaultMutableFeatureGate.DeepCopy().Set(value); err != nil {
				return "", given.refuse(arg{gatesFlag, value}, err.Error())
			}
			gates = append(gates, value)
		}
	}
	return strings.Join(gates, ","), nil
}

func (c Config) apiServerFlags(etcd statedir.Etcd) flags {
	d := c.StateDir
	issuer := c.serviceAccountIssuer()
	f := flags{
		"advertise-address": c.Advertised(), "bind-address": c.BindAddress,
		"service-cluster-ip-range": c.ServiceCIDR, "allow-privileged": "true", "profiling": "false",
		"service-node-port-range":   c.Minions.NodePorts,
		"enable-aggregator-routing": strconv.FormatBool(c.AggregatorRouting),

		"etcd-servers": strings.Join(etcd.Endpoints, ","),
		"etcd-cafile":  etcd.CAFile, "etcd-certfile": etcd.CertFile, "etcd-keyfile": etcd.KeyFile,

		"client-ca-file": d.CA(), "enable-bootstrap-token-auth": "true",
		"authentication-config": d.AuthenticationConfig(), "authorization-mode": "Node,RBAC",
		"enable-admission-plugins": strings.Join(c.admissionPlugins(), ","),
		"service-account-issuer":   issuer,
		"service-account-key-file": d.ServiceAccountKeys(),
		// Pods' tokens end after an hour, and kubelets renew them; the extension to a year is for clients of before 2021.
		"service-account-extend-token-expiration": "false",
		"service-account-max-token-expiration":    maxTokenExpiration,
		"api-audiences":                           issuer,
		"requestheader-allowed-names":             statedir.FrontProxyUser, "requestheader-client-ca-file": d.FrontProxyCA(),
		"requestheader-username-headers": "X-Remote-User", "requestheader-group-headers": "X-Remote-Group",
		"requestheader-extra-headers-prefix": "X-Remote-Extra-",

		"kubelet-certificate-authority":   d.KubeletTrust(),
		"kubelet-preferred-address-types": "InternalIP,Hostname",

		// Watches end when the server is told to. Without this it waits a minute for them, and answers nobody meanwhile.
		"shutdown-watch-termination-grace-period": "5s",
	}
	c.auditFlags(f)
	c.encryptionFlags(f)
	c.admissionFlags(f)
	c.tracingFlags(f)
	f["tls-cipher-suites"], f["tls-min-version"] = strings.Join(c.TLS.suites(), ","), c.TLS.MinVersion
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

// admissionPlugins returns those that are enabled besides the default ones
// (https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/). With an allow-list of external IPs, a policy takes
// the place of DenyServiceExternalIPs.
func (c Config) admissionPlugins() []string {
	if len(c.ServiceExternalIPs) > 0 {
		return []string{"NodeRestriction"}
	}
	return []string{"NodeRestriction", "DenyServiceExternalIPs"}
}

// maxTokenExpiration is what tokens of service accounts last at most, whatever is requested.
const maxTokenExpiration = "720h"

func (c Config) serviceAccountIssuer() string {
	return "https://kubernetes.default.svc." + c.ClusterDomain
}

// flags are a stock program's flags by name; an empty value leaves the program's default.
type flags map[string]string

// ownObjects are kube-apiserver's health checks of objects that it makes for others at its start.
var ownObjects = []string{"poststarthook/rbac/bootstrap-roles", "poststarthook/scheduling/bootstrap-system-priority-classes"}

// waitReady returns when the API server is ready, but for those health checks.
func waitReady(ctx context.Context, client kubernetes.Interface, except ...string) error {
	ready := func(ctx context.Context) (bool, error) {
		ask := client.Discovery().RESTClient().Get().AbsPath("/readyz")
		for _, check := range except {
			ask.Param("exclude", check)
		}
		return ask.Do(ctx).Error() == nil, nil
	}
	if err := wait.PollUntilContextCancel(ctx, readyPoll, true, ready); err != nil {
		return fmt.Errorf("the API server did not become ready: %w", context.Cause(ctx))
	}
	return nil
}

// readyPoll is how often an API server is asked whether it is ready.
const readyPoll = 25 * time.Millisecond
