package controlplane

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/pflag"
	cliflag "k8s.io/component-base/cli/flag"
)

// program is a stock program to which operators can pass flags.
type program struct {
	name string
	flag string // of km, by which flags are passed
	// managed has the flags that cannot be passed, because k8sm sets them or because they would have no effect, and what to do
	// instead. A name that ends in * stands for all that begin so.
	managed map[string]string
	// defaults are flags that k8sm sets, but that operators may set, too: lists and maps are then extended, other values replaced.
	defaults []string
}

// arg is a flag that an operator passes to a stock program.
type arg struct{ name, value string }

func (a arg) String() string { return a.name + "=" + a.value }

// refuse returns the error for an argument that cannot be passed.
func (p program) refuse(a fmt.Stringer, why string) error {
	return fmt.Errorf("cannot use --%s=%s: %s", p.flag, a, why)
}

// text is an argument as the operator wrote it.
type text string

func (t text) String() string { return string(t) }

// parse parses NAME=VALUE arguments and refuses those that k8sm manages. ours are the flags that k8sm sets.
func (p program) parse(list []string, ours flags) ([]arg, error) {
	var args []arg
	for _, one := range list {
		name, value, ok := strings.Cut(one, "=")
		if !ok || name == "" || strings.HasPrefix(name, "-") {
			return nil, p.refuse(text(one), "give NAME=VALUE, without dashes before the name of the flag")
		}
		a := arg{strings.ReplaceAll(name, "_", "-"), value}
		if why, managed := p.manages(a.name, ours); managed {
			return nil, p.refuse(a, why)
		}
		args = append(args, a)
	}
	return args, nil
}

// manages reports whether k8sm manages the flag, and says what to do instead.
func (p program) manages(name string, ours flags) (why string, managed bool) {
	if why, ok := p.managed[name]; ok {
		return why, true
	}
	for pattern, why := range p.managed {
		if prefix, ok := strings.CutSuffix(pattern, "*"); ok && strings.HasPrefix(name, prefix) {
			return why, true
		}
	}
	for _, free := range p.defaults {
		if name == free {
			return "", false
		}
	}
	if _, set := ours[name]; set {
		return "k8sm sets --" + name + " of " + p.name + " itself", true
	}
	return "", false
}

// set sets the program's flags as its command line would: first ours, then those that the operator passes.
func (p program) set(fs *pflag.FlagSet, ours flags, passed []arg) error {
	fs.SetOutput(io.Discard) // for the deprecation of flags
	for name, value := range ours {
		if value == "" {
			continue
		}
		if err := fs.Set(name, value); err != nil {
			return fmt.Errorf("cannot set up %s: %w", p.name, err)
		}
	}
	for _, a := range passed {
		if fs.Lookup(a.name) == nil {
			return p.refuse(a, p.name+" has no flag --"+a.name)
		}
		if err := fs.Set(a.name, a.value); err != nil {
			if invalid := (*pflag.InvalidValueError)(nil); errors.As(err, &invalid) {
				err = invalid.Unwrap()
			}
			return p.refuse(a, err.Error())
		}
	}
	return nil
}

// merged returns all flags of the sets as one set.
func merged(sets cliflag.NamedFlagSets) *pflag.FlagSet {
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	for _, set := range sets.FlagSets {
		fs.AddFlagSet(set)
	}
	return fs
}

// without returns the arguments that are not for the flag, and the values of those that are.
func without(args []arg, name string) (rest []arg, values []string) {
	for _, a := range args {
		if a.name == name {
			values = append(values, a.value)
		} else {
			rest = append(rest, a)
		}
	}
	return rest, values
}

// Reasons why flags are managed.
const (
	byKM       = "use --%s"
	ownPKI     = "k8sm makes the cluster's certificates and keys"
	ownNode    = "the minion chooses it for each node"
	ownLog     = "km logs for everything in this process: use --log-level"
	ownSocket  = "km opens the API server's listener itself: use --bind-address and --secure-port"
	ownShare   = "a node's resources are those that its Mesos agent gives to k8sm, and the minion keeps pods in a cgroup of their own"
	oneVersion = "all parts of a cluster have the version of km"
)

// kmFlags are flags that km has under the same name.
func kmFlags(names ...string) map[string]string {
	m := map[string]string{}
	for _, name := range names {
		m[name] = fmt.Sprintf(byKM, name)
	}
	return m
}

// reason adds flags with one reason.
func reason(m map[string]string, why string, names ...string) {
	for _, name := range names {
		m[name] = why
	}
}

// logFlags are those of k8s.io/component-base/logs.
var logFlags = []string{"v", "vmodule", "logging-format", "log-flush-frequency", "log-text-*"}

func apiServerProgram() program {
	m := kmFlags("advertise-address", "bind-address", "secure-port", "service-cluster-ip-range", "service-node-port-range",
		"enable-aggregator-routing", "etcd-servers", "etcd-cafile", "etcd-certfile", "etcd-keyfile", "audit-policy-file", "audit-log-path",
		"audit-log-maxage", "audit-log-maxbackup", "audit-log-maxsize", "encryption-provider-config", "admission-control-config-file",
		"authentication-config", "oidc-issuer-url", "oidc-client-id", "oidc-ca-file", "oidc-username-claim", "oidc-username-prefix", "oidc-groups-claim",
		"oidc-groups-prefix", "oidc-required-claim", "tls-cipher-suites", "tls-min-version")
	m["oidc-signing-algs"] = "all algorithms that Kubernetes knows are accepted if the issuer has such a key"
	m["encryption-provider-config-automatic-reload"] = "changes of the file are always taken over"
	m["etcd-prefix"] = "k8sm finds Kubernetes' objects below /registry"
	reason(m, ownSocket, "permit-port-sharing", "permit-address-sharing", "cert-dir")
	reason(m, ownPKI, "client-ca-file", "tls-private-key-file", "service-account-key-file", "service-account-signing-*", "kubelet-certificate-authority",
		"kubelet-client-*", "proxy-client-*", "requestheader-*")
	reason(m, ownPKI+"; for a certificate of your own, pass tls-sni-cert-key", "tls-cert-file")
	reason(m, ownLog, logFlags...)
	reason(m, oneVersion, "emulated-version", "min-compatibility-version", "emulation-forward-compatible", "runtime-config-emulation-forward-compatible")
	m["authorization-config"] = "nodes need the modes Node and RBAC; to add a webhook, pass authorization-mode=Webhook and authorization-webhook-config-file"
	m["anonymous-auth"] = "unauthenticated callers get only the server's health"
	return program{name: "kube-apiserver", flag: "kube-apiserver-arg", managed: m, defaults: []string{
		"allow-privileged", "api-audiences", "authorization-mode", "disable-admission-plugins", "enable-admission-plugins", "feature-gates",
		"kubelet-preferred-address-types", "profiling", "service-account-issuer", "service-account-extend-token-expiration", "service-account-max-token-expiration",
		"shutdown-watch-termination-grace-period",
	}}
}

func controllerManagerProgram() program {
	m := kmFlags("cluster-cidr", "service-cluster-ip-range", "node-cidr-mask-size-ipv4", "node-cidr-mask-size-ipv6")
	reason(m, "use --node-cidr-mask-size-ipv4 or --node-cidr-mask-size-ipv6", "node-cidr-mask-size")
	reason(m, ownPKI, "kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig", "service-account-private-key-file", "root-ca-file",
		"cluster-signing-*")
	reason(m, ownLog, logFlags...)
	reason(m, oneVersion, "emulated-version", "min-compatibility-version")
	reason(m, "km knows the API server's address", "master")
	return program{name: "kube-controller-manager", flag: "kube-controller-manager-arg", managed: m, defaults: []string{
		"bind-address", "controllers", "feature-gates", "kube-api-qps", "kube-api-burst", "leader-elect-lease-duration", "leader-elect-renew-deadline",
		"leader-elect-retry-period", "profiling", "secure-port", "terminated-pod-gc-threshold",
	}}
}

func kubeletProgram() program {
	m := kmFlags("cluster-domain", "cluster-dns", "eviction-hard", "seccomp-default", "pod-max-pids", "tls-cipher-suites", "tls-min-version",
		"image-credential-provider-config", "image-credential-provider-bin-dir")
	m["pod-manifest-path"] = fmt.Sprintf(byKM, "static-pod-path")
	reason(m, ownNode, "config", "config-dir", "root-dir", "cert-dir", "kubeconfig", "bootstrap-kubeconfig", "hostname-override", "node-ip", "address",
		"port", "healthz-port", "healthz-bind-address", "provider-id", "container-runtime-endpoint", "image-service-endpoint", "volume-plugin-dir", "pod-cidr")
	reason(m, ownShare, "cgroup-root", "cgroups-per-qos", "cgroup-driver", "enforce-node-allocatable", "kube-reserved*", "system-reserved*", "reserved-*",
		"kubelet-cgroups", "system-cgroups", "runtime-cgroups")
	reason(m, ownPKI, "client-ca-file", "rotate-certificates", "rotate-server-certificates", "tls-cert-file", "tls-private-key-file")
	reason(m, "the API server decides who may call kubelets", "anonymous-auth", "authentication-token-webhook", "authorization-mode")
	reason(m, "the scheduler makes the Node objects, from what Mesos says of agents", "register-node", "register-with-taints", "node-labels", "cloud-provider")
	reason(m, "the container runtime keeps as much as the kubelet expects", "container-log-max-size", "container-log-max-files")
	reason(m, "the rules would stay on the machine after the node", "make-iptables-util-chains")
	reason(m, "the kubelet would end at once", "help", "version", "runonce")
	return program{name: "kubelet", flag: "kubelet-arg", managed: m}
}

func proxyProgram() program {
	m := kmFlags("proxy-mode", "cluster-cidr")
	reason(m, ownNode, "config", "kubeconfig", "master", "hostname-override", "bind-address", "healthz-bind-address", "healthz-port",
		"metrics-bind-address", "metrics-port", "bind-address-hard-fail")
	reason(m, "the pod network decides it", "detect-local-mode", "pod-bridge-interface", "pod-interface-name-prefix")
	reason(m, "kube-proxy would end at once", "help", "version", "cleanup", "init-only", "write-config-to")
	reason(m, "km has the modes iptables and nftables only", "ipvs-*")
	return program{name: "kube-proxy", flag: "kube-proxy-arg", managed: m}
}
