package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/containernetworking/cni/libcni"
)

// load reads the active configuration: the first file of the directory in lexicographic order, as in other runtimes.
func load(dir string) (*libcni.NetworkConfigList, error) {
	files, err := libcni.ConfFiles(dir, []string{".conf", ".conflist", ".json"})
	if err != nil {
		return nil, fmt.Errorf("cannot read the directory of CNI configurations: %w", err)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("no CNI configuration in %s: install a network plugin, or set another --cni-conf-dir", dir)
	}
	slices.Sort(files)
	list, err := read(files[0])
	if err != nil {
		return nil, fmt.Errorf("cannot use the CNI configuration %s: %w", files[0], err)
	}
	return list, nil
}

func read(file string) (*libcni.NetworkConfigList, error) {
	if filepath.Ext(file) == ".conflist" {
		return libcni.NetworkConfFromFile(file)
	}
	data, err := os.ReadFile(file) // a .conf file with a single plugin, the older format
	if err != nil {
		return nil, err
	}
	plugin, err := libcni.NetworkPluginConfFromBytes(data)
	if err != nil {
		return nil, err
	}
	list, err := json.Marshal(map[string]any{
		"name": plugin.Network.Name, "cniVersion": plugin.Network.CNIVersion, "plugins": []json.RawMessage{data},
	})
	if err != nil {
		return nil, err
	}
	return libcni.NetworkConfFromBytes(list)
}

// activeConfig reads the active configuration. It checks that the plugins exist, accept it, and are ready.
func (n *Network) activeConfig(ctx context.Context) (*libcni.NetworkConfigList, error) {
	list, err := load(n.cfg.ConfDir)
	if err != nil {
		return nil, err
	}
	if _, err := n.plugins.ValidateNetworkList(ctx, list); err != nil {
		return nil, fmt.Errorf("cannot use the CNI configuration of network %s with the plugins in %s: %w", list.Name, n.cfg.BinDir, err)
	}
	if err := n.plugins.GetStatusNetworkList(ctx, list); err != nil {
		return nil, fmt.Errorf("the plugins of CNI network %s are not ready: %w", list.Name, err)
	}
	return list, nil
}

// capable reports whether a plugin in the list has a capability
// (https://www.cni.dev/docs/conventions/#dynamic-plugin-specific-fields-capabilities--runtime-configuration).
func capable(list *libcni.NetworkConfigList, capability string) bool {
	return slices.ContainsFunc(list.Plugins, func(p *libcni.PluginConfig) bool { return p.Network.Capabilities[capability] })
}

var errNoPorts = errors.New("no plugin in the CNI configuration has the capability portMappings: add the plugin portmap")
