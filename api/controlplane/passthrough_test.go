package controlplane

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	proxyconfig "k8s.io/kube-proxy/config/v1alpha1"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app/options"

	"github.com/k8sm/k8sm/api/statedir"
)

// withArgs is a configuration with flags as on the command line.
func withArgs(t *testing.T, args ...string) Config {
	t.Helper()
	c, fs := withFlags("/s")
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	return *c
}

func TestWhatCannotBePassedIsRefusedWithTheReason(t *testing.T) {
	for line, want := range map[string]string{
		"--kube-apiserver-arg=etcd-servers=http://e:1":                               "use --etcd-servers",
		"--kube-apiserver-arg=requestheader-uid-headers=X":                           "k8sm makes the cluster's certificates and keys",
		"--kube-apiserver-arg=client_ca_file=/ca":                                    "cannot use --kube-apiserver-arg=client-ca-file=/ca: k8sm makes the cluster's certificates and keys",
		"--kube-apiserver-arg=enable-bootstrap-token-auth=false":                     "k8sm sets --enable-bootstrap-token-auth of kube-apiserver itself",
		"--kube-apiserver-arg=v=4":                                                   "use --log-level",
		"--kube-apiserver-arg=emulated-version=1.35":                                 "all parts of a cluster have the version of km",
		"--kube-apiserver-arg=frob=1":                                                "kube-apiserver has no flag --frob",
		"--kube-apiserver-arg=--profiling=true":                                      "give NAME=VALUE, without dashes",
		"--kube-apiserver-arg=profiling":                                             "give NAME=VALUE, without dashes",
		"--kube-apiserver-arg=max-requests-inflight=many":                            "cannot use --kube-apiserver-arg=max-requests-inflight=many: strconv.ParseInt",
		"--kube-apiserver-arg=max-requests-inflight=-1":                              "--max-requests-inflight can not be negative value",
		"--kube-apiserver-arg=enable-admission-plugins=NoSuch":                       `plugin "NoSuch" is unknown`,
		"--kube-apiserver-arg=disable-admission-plugins=NodeRestriction":             "a cluster is not safe without this plugin",
		"--kube-apiserver-arg=authorization-mode=AlwaysAllow":                        "it would decide everything that Node and RBAC leave open",
		"--kube-apiserver-arg=feature-gates=NoSuch=true":                             "unrecognized feature gate: NoSuch",
		"--kube-controller-manager-arg=feature-gates=NoSuch=true":                    "cannot use --kube-controller-manager-arg=feature-gates=NoSuch=true: unrecognized feature gate: NoSuch",
		"--kube-controller-manager-arg=cluster-signing-cert-file=/ca":                "k8sm makes the cluster's certificates and keys",
		"--kube-controller-manager-arg=node-cidr-mask-size=24":                       "use --node-cidr-mask-size-ipv4",
		"--kube-controller-manager-arg=concurrent-horizontal-pod-autoscaler-syncs=0": "cannot use --kube-controller-manager-arg: concurrent-horizontal-pod-autoscaler-syncs",
		"--kube-controller-manager-arg=controllers=nosuch":                           `"nosuch" is not in the list of known controllers`,
		"--kubelet-arg=hostname-override=x":                                          "the minion chooses it for each node",
		"--kubelet-arg=kube-reserved=cpu=1":                                          "a node's resources are those that its Mesos agent gives to k8sm",
		"--kubelet-arg=frob=1":                                                       "kubelet has no flag --frob",
		"--kubelet-arg=max-pods=many":                                                "cannot use --kubelet-arg=max-pods=many: strconv.ParseInt",
		"--kubelet-arg=image-gc-low-threshold=101":                                   "imageGCLowThresholdPercent",
		"--kubelet-arg=feature-gates=NoSuch=true":                                    "unrecognized feature gate: NoSuch",
		"--kube-proxy-arg=proxy-mode=iptables":                                       "use --proxy-mode",
		"--kube-proxy-arg=ipvs-scheduler=rr":                                         "iptables and nftables only",
		"--kube-proxy-arg=frob=1":                                                    "kube-proxy has no flag --frob",
		"--kube-proxy-arg=iptables-masquerade-bit=40":                                "cannot use --kube-proxy-arg: ",
		"--kube-proxy-arg=feature-gates=NoSuch=true":                                 "unrecognized feature gate: NoSuch",
		"--kube-proxy-arg=conntrack-tcp-timeout-established=soon":                    "invalid duration",
	} {
		t.Run(line, func(t *testing.T) {
			c := withArgs(t, line)
			if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want %q", err, want)
			}
		})
	}
}

// TestManagedFlagsExist: a reason for a flag that the program no longer has is of no use.
func TestManagedFlagsExist(t *testing.T) {
	apiServer, controllerManager := optionsOf(t, defaults("/s"))
	kubeletFlags, proxyFlags := pflag.NewFlagSet("", pflag.ContinueOnError), pflag.NewFlagSet("", pflag.ContinueOnError)
	kubelet.NewKubeletFlags().AddFlags(kubeletFlags)
	config, err := kubelet.NewKubeletConfiguration()
	if err != nil {
		t.Fatal(err)
	}
	kubelet.AddKubeletConfigFlags(kubeletFlags, config)
	kubelet.AddGlobalFlags(kubeletFlags)
	proxy.NewOptions().AddFlags(proxyFlags)
	for fs, p := range map[*pflag.FlagSet]program{
		apiServer: apiServerProgram(), controllerManager: controllerManagerProgram(), kubeletFlags: kubeletProgram(), proxyFlags: proxyProgram(),
	} {
		exists := func(name string) (found bool) {
			prefix, several := strings.CutSuffix(name, "*")
			fs.VisitAll(func(f *pflag.Flag) {
				found = found || f.Name == name || several && strings.HasPrefix(f.Name, prefix)
			})
			return found
		}
		for name := range p.managed {
			if name != "help" && name != "version" && !exists(name) {
				t.Errorf("%s has no --%s", p.name, name)
			}
		}
		for _, name := range p.defaults {
			if !exists(name) {
				t.Errorf("%s has no --%s", p.name, name)
			}
		}
	}
}

// optionsOf returns the flags of both programs with the values that they run with.
func optionsOf(t *testing.T, c Config) (apiServer, controllerManager *pflag.FlagSet) {
	t.Helper()
	a, err := c.apiServerOptions(c.apiServerFlags(statedir.Etcd{}))
	if err != nil {
		t.Fatal(err)
	}
	m, err := c.controllerManagerOptions()
	if err != nil {
		t.Fatal(err)
	}
	return merged(a.Flags()), merged(*m.ParsedFlags)
}

func TestPassedFlagsExtendListsAndReplaceValues(t *testing.T) {
	apiServer, manager := optionsOf(t, withArgs(t,
		"--kube-apiserver-arg=enable-admission-plugins=EventRateLimit,AlwaysPullImages", "--kube-apiserver-arg=profiling=true",
		"--kube-apiserver-arg=authorization-mode=Webhook", "--kube-apiserver-arg=service-account-issuer=https://old.example",
		"--kube-apiserver-arg=runtime-config=resource.k8s.io/v1alpha3=true", "--kube-apiserver-arg=goaway-chance=0.01",
		"--kube-controller-manager-arg=controllers=-ttl-controller", "--kube-controller-manager-arg=kube-api-qps=7",
	))
	for name, want := range map[string]string{
		"enable-admission-plugins": "NodeRestriction,DenyServiceExternalIPs,EventRateLimit,AlwaysPullImages", "profiling": "true", "authorization-mode": "Node,RBAC,Webhook",
		"service-account-issuer": "https://kubernetes.default.svc.cluster.local,https://old.example", "goaway-chance": "0.01",
		"runtime-config": "resource.k8s.io/v1alpha3=true",
	} {
		if got := strings.Trim(apiServer.Lookup(name).Value.String(), "[]"); got != want {
			t.Errorf("kube-apiserver runs with --%s=%s, want %s", name, got, want)
		}
	}
	for name, want := range map[string]string{
		"controllers": "*,bootstrap-signer-controller,token-cleaner-controller,-ttl-controller", "kube-api-qps": "7", "kube-api-burst": "200",
	} {
		if got := strings.Trim(manager.Lookup(name).Value.String(), "[]"); got != want {
			t.Errorf("kube-controller-manager runs with --%s=%s, want %s", name, got, want)
		}
	}
}

// TestProxyFlagsBecomeItsConfiguration: beside a file, kube-proxy ignores its flags.
func TestProxyFlagsBecomeItsConfiguration(t *testing.T) {
	minions, err := withArgs(t,
		"--kube-proxy-arg=masquerade-all=true", "--kube-proxy-arg=conntrack-max-per-core=32768", // the latter is kube-proxy's own default, but not ours
		"--kube-proxy-arg=conntrack-udp-timeout=7s", "--kube-proxy-arg=nodeport-addresses=192.0.2.0/24", "--kube-proxy-arg=v=4",
		"--kube-proxy-arg=feature-gates=ContextualLogging=true",
	).minionConfig()
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(minions.ProxyConfig, &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"featureGates":      map[string]any{"ContextualLogging": true},
		"linux":             nil,
		"conntrack":         map[string]any{"maxPerCore": 32768., "udpTimeout": "7s"},
		"iptables":          map[string]any{"masqueradeAll": true},
		"nodePortAddresses": []any{"192.0.2.0/24"},
		"logging":           map[string]any{"verbosity": 4.},
	}
	delete(want, "linux")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("minions get (-want +got):\n%s", diff)
	}
	if err := json.Unmarshal(minions.ProxyConfig, &proxyconfig.KubeProxyConfiguration{}); err != nil {
		t.Error(err)
	}
}
