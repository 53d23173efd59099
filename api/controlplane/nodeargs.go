package controlplane

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/spf13/pflag"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	cliflag "k8s.io/component-base/cli/flag"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app/options"
	kubeletvalidation "k8s.io/kubernetes/pkg/kubelet/apis/config/validation"
	"sigs.k8s.io/yaml"
)

// kubeletArgs checks what the operator passes to kubelets as a kubelet does, so that no node gets flags with which its kubelet would
// not start. It returns them as arguments.
func (c Config) kubeletArgs() ([]string, error) {
	p := kubeletProgram()
	args, err := p.parse(c.KubeletArgs, nil)
	if err != nil || len(args) == 0 {
		return nil, err
	}
	given := kubelet.NewKubeletFlags()
	config, err := kubelet.NewKubeletConfiguration()
	if err != nil {
		return nil, fmt.Errorf("cannot check --%s: %w", p.flag, err)
	}
	config.FailCgroupV1 = false // as minions set it
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	given.AddFlags(fs)
	kubelet.AddKubeletConfigFlags(fs, config)
	kubelet.AddGlobalFlags(fs)
	if err := p.set(fs, nil, args); err != nil {
		return nil, err
	}
	gates := utilfeature.DefaultMutableFeatureGate.DeepCopy()
	err = gates.SetFromMap(config.FeatureGates)
	if err == nil {
		err = kubelet.ValidateKubeletFlags(given)
	}
	if err == nil {
		err = kubeletvalidation.ValidateKubeletConfiguration(config, gates)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot use --%s: %w", p.flag, err)
	}
	list := make([]string, len(args))
	for i, a := range args {
		list[i] = a.String()
	}
	return list, nil
}

// ourProxyFlags are what minions configure in any kube-proxy and what has a flag. A flag that an operator passes counts if it differs.
var ourProxyFlags = flags{
	"conntrack-max-per-core": "0", "conntrack-min": "0", "conntrack-tcp-timeout-established": "0s", "conntrack-tcp-timeout-close-wait": "0s",
	"iptables-localhost-nodeports": "false",
}

// proxyConfig returns what the operator passes to kube-proxies as the fields of their configuration that it changes, because
// kube-proxy ignores most flags beside a configuration file. It is nil if nothing is passed.
func (c Config) proxyConfig() (json.RawMessage, error) {
	p := proxyProgram()
	args, err := p.parse(c.ProxyArgs, nil)
	if err != nil || len(args) == 0 {
		return nil, err
	}
	args, gates := without(args, "feature-gates") // kube-proxy would set those of this process
	features, err := proxyGates(p, gates)
	if err != nil {
		return nil, err
	}
	before, err := proxyFile(p, nil)
	if err != nil {
		return nil, err
	}
	after, err := proxyFile(p, args)
	if err != nil {
		return nil, err
	}
	change, err := jsonpatch.CreateMergePatch(before, after)
	if err != nil || len(features) == 0 {
		return change, err
	}
	return jsonpatch.MergePatch(change, features)
}

func proxyGates(p program, values []string) ([]byte, error) {
	gates := map[string]bool{}
	for _, value := range values {
		a := arg{"feature-gates", value}
		if err := cliflag.NewMapStringBool(&gates).Set(value); err != nil {
			return nil, p.refuse(a, err.Error())
		}
		if err := utilfeature.DefaultMutableFeatureGate.DeepCopy().SetFromMap(gates); err != nil {
			return nil, p.refuse(a, err.Error())
		}
	}
	if len(gates) == 0 {
		return nil, nil
	}
	return json.Marshal(map[string]any{"featureGates": gates})
}

// proxyFile returns the configuration, as JSON, that kube-proxy makes of flags and finds valid.
func proxyFile(p program, args []arg) ([]byte, error) {
	file, err := os.CreateTemp("", "kube-proxy-*.yaml")
	if err != nil {
		return nil, fmt.Errorf("cannot check --%s: %w", p.flag, err)
	}
	defer func() { _ = os.Remove(file.Name()) }()
	_ = file.Close() // kube-proxy writes it anew
	o := proxy.NewOptions()
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	o.AddFlags(fs)
	if err := p.set(fs, ourProxyFlags, args); err != nil {
		return nil, err
	}
	o.WriteConfigTo = file.Name()
	for _, step := range []func() error{
		func() error { return o.Complete(fs) }, o.Validate, func() error { return o.Run(context.Background()) },
	} {
		if err := step(); err != nil {
			return nil, fmt.Errorf("cannot use --%s: %w", p.flag, err)
		}
	}
	text, err := os.ReadFile(file.Name())
	if err != nil {
		return nil, fmt.Errorf("cannot check --%s: %w", p.flag, err)
	}
	return yaml.YAMLToJSON(text)
}
