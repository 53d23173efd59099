package controlplane

import (
	"fmt"
	"os"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/apis/apiserver/install"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"k8s.io/kubernetes/cmd/kube-apiserver/app/options"
	"sigs.k8s.io/yaml"
)

// configScheme knows the files that configure an API server.
var configScheme = runtime.NewScheme()

func init() { install.Install(configScheme) }

// configuredPlugins returns the names of the plugins in the admission configuration file.
func (c Config) configuredPlugins() (names []string, err error) {
	if c.AdmissionConfig == "" {
		return nil, nil
	}
	data, err := os.ReadFile(c.AdmissionConfig)
	if err != nil {
		return nil, fmt.Errorf("cannot use --admission-control-config-file: %w", err)
	}
	var config apiserverv1.AdmissionConfiguration
	if err := yaml.Unmarshal(data, &config); err != nil {
		return nil, fmt.Errorf("cannot use --admission-control-config-file=%s: %w", c.AdmissionConfig, err)
	}
	for _, plugin := range config.Plugins {
		names = append(names, plugin.Name)
	}
	return names, nil
}

// admissionFlags adds the flags of kube-apiserver: plugins that the file configures are enabled.
func (c Config) admissionFlags(f flags) {
	if c.AdmissionConfig == "" {
		return
	}
	f["admission-control-config-file"] = c.AdmissionConfig
	names, _ := c.configuredPlugins() // checkAdmissionConfig reports the error
	f["enable-admission-plugins"] = strings.Join(append([]string{f["enable-admission-plugins"]}, names...), ",")
}

// checkAdmissionConfig loads the configurations of the plugins that the file names, as kube-apiserver does when it has started etcd's
// client and everything else.
func (c Config) checkAdmissionConfig(o *options.ServerRunOptions) error {
	names, err := c.configuredPlugins()
	if err != nil || c.AdmissionConfig == "" {
		return err
	}
	fail := func(err error) error {
		return fmt.Errorf("cannot use --admission-control-config-file=%s: %s", c.AdmissionConfig, strings.Join(strings.Fields(err.Error()), " "))
	}
	provider, err := admission.ReadAdmissionConfiguration(names, c.AdmissionConfig, configScheme)
	if err != nil {
		return fail(err)
	}
	for _, name := range names {
		config, err := provider.ConfigFor(name)
		if err != nil {
			return fail(err)
		}
		// Without the clients that it needs, no plugin gets any further than its configuration.
		_, err = o.Admission.GenericAdmission.Plugins.InitPlugin(name, config, admission.PluginInitializers{})
		if err != nil && !strings.HasPrefix(err.Error(), "failed to initialize admission plugin") {
			return fail(err)
		}
	}
	return nil
}
