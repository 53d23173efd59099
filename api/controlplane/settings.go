package controlplane

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/pflag"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/etcd"
	"github.com/k8sm/k8sm/api/state"
	"github.com/k8sm/k8sm/api/statedir"
)

// machineFlags may differ between the control planes of a cluster: they are about a machine. All others are the cluster's settings.
var machineFlags = []string{
	"bind-address", "secure-port", "advertise-address", "tls-san", "join", "token-file", "change-settings", "control-plane-endpoint",
	"etcd-servers", "etcd-cafile", "etcd-certfile", "etcd-keyfile", "etcd-port", "etcd-quota", "insecure-etcd",
}

// machinePrefixes begin the names of more such flags: each API server has an audit log of its own, and each machine its snapshots.
var machinePrefixes = []string{"audit-log-", "snapshot-", "cert-lifetime", "ca-lifetime"}

// contentFlags name files whose content counts.
var contentFlags = []string{"encryption-provider-config", "admission-control-config-file", "authentication-config", "oidc-ca-file", "audit-policy-file"}

// settings are the flags that all control planes of a cluster must have in common.
type settings struct {
	// Version is that of km.
	Version string `json:"version"`
	// Flags has each flag's value. That of a file is its hash.
	Flags map[string]string `json:"flags"`
	// defaults are the flags that were not given.
	defaults []string
}

// settings returns those of this control plane.
func (c Config) settings() (settings, error) {
	usual, all := pflag.NewFlagSet("", pflag.ContinueOnError), pflag.NewFlagSet("", pflag.ContinueOnError)
	var defaults, mine Config
	defaults.AddFlags(usual)
	mine.AddFlags(all)
	mine = c // the flags point to its fields
	s := settings{Version: api.Version, Flags: map[string]string{"metrics": strconv.FormatBool(c.Metrics), "logs": strconv.FormatBool(c.Logs)}}
	var problem error
	all.VisitAll(func(f *pflag.Flag) {
		if slices.Contains(machineFlags, f.Name) || slices.ContainsFunc(machinePrefixes, func(p string) bool { return strings.HasPrefix(f.Name, p) }) {
			return
		}
		value := f.Value.String()
		if value == usual.Lookup(f.Name).Value.String() {
			s.defaults = append(s.defaults, f.Name)
		}
		if slices.Contains(contentFlags, f.Name) && value != "" {
			data, err := os.ReadFile(value)
			if err != nil {
				problem = fmt.Errorf("cannot read --%s: %w", f.Name, err)
				return
			}
			sum := sha256.Sum256(data)
			value = "a file with SHA-256 " + hex.EncodeToString(sum[:8])
		}
		s.Flags[f.Name] = value
	})
	return s, problem
}

// differences returns what is not the same in the cluster, sorted by flag. A flag that only one version of km has is no difference, and
// neither is one that was not given here while another version may have another default.
func (s settings) differences(cluster settings) (list []string) {
	for _, name := range slices.Sorted(maps.Keys(s.Flags)) {
		there, known := cluster.Flags[name]
		if !known || there == s.Flags[name] || (cluster.Version != s.Version && slices.Contains(s.defaults, name)) {
			continue
		}
		list = append(list, fmt.Sprintf("--%s is %q here and %q there", name, s.Flags[name], there))
	}
	return list
}

// presenceSeconds is how long a control plane that was killed counts as one that runs.
const presenceSeconds = 15

// agree returns an error if other control planes start or run on this etcd with other settings. Else those here become the cluster's, and
// this control plane counts as one that runs until the caller calls leave. API servers are known only when they serve: without that, each
// of several that start together would be alone.
func (c Config) agree(ctx context.Context, access statedir.Etcd) (leave func(), err error) {
	mine, err := c.settings()
	if err != nil {
		return nil, err
	}
	client, err := etcd.Dial(access)
	if err != nil {
		return nil, err
	}
	here := etcd.Presence{Client: client, Key: c.presence() + c.Advertised(), Seconds: presenceSeconds}
	lease, err := here.Grant(ctx)
	if err != nil {
		return nil, errors.Join(err, client.Close())
	}
	revoke := func(lease clientv3.LeaseID) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_, _ = client.Revoke(ctx, lease) // a lease that cannot be revoked expires
		_ = client.Close()
	}
	if err := c.settle(ctx, client, mine, lease); err != nil {
		revoke(lease)
		return nil, err
	}
	keeping, stop := context.WithCancel(context.WithoutCancel(ctx))
	last := make(chan clientv3.LeaseID, 1)
	go func() { last <- here.Keep(keeping, lease) }()
	return func() {
		stop()
		revoke(<-last)
	}, nil
}

// settle writes the settings and that this control plane is there, at once: of several that start together, each sees those before it.
func (c Config) settle(ctx context.Context, client *clientv3.Client, mine settings, lease clientv3.LeaseID) error {
	value, err := json.Marshal(mine)
	if err != nil {
		return fmt.Errorf("cannot encode the cluster's settings: %w", err)
	}
	key := path.Join(state.Prefix, c.ClusterName, "settings")
	for {
		now, err := client.Txn(ctx).Then(clientv3.OpGet(key), clientv3.OpGet(c.presence(), clientv3.WithPrefix()),
			clientv3.OpGet(masterLeases, clientv3.WithPrefix(), clientv3.WithKeysOnly())).Commit()
		if err != nil {
			return fmt.Errorf("cannot read the cluster's settings: %w", err)
		}
		stored, present, serving := now.Responses[0].GetResponseRange().Kvs, now.Responses[1].GetResponseRange().Kvs, now.Responses[2].GetResponseRange().Kvs
		unchanged := clientv3.Compare(clientv3.ModRevision(key), "=", 0)
		if len(stored) > 0 {
			others := append(addressesIn(present, c.presence()), addressesIn(serving, masterLeases)...)
			if err := c.compare(mine, stored[0].Value, others); err != nil {
				return err
			}
			unchanged = clientv3.Compare(clientv3.ModRevision(key), "=", stored[0].ModRevision)
		}
		written, err := client.Txn(ctx).If(unchanged).Then(clientv3.OpPut(key, string(value)),
			clientv3.OpPut(c.presence()+c.Advertised(), "", clientv3.WithLease(lease))).Commit()
		if err != nil {
			return fmt.Errorf("cannot write the cluster's settings: %w", err)
		}
		if written.Succeeded {
			return nil
		}
	}
}

// presence is where control planes keep a key with a lease while they start and run.
func (c Config) presence() string {
	return path.Join(state.Prefix, c.ClusterName, "control-planes") + "/"
}

// compare returns an error if the stored settings differ from those of this control plane and there are others.
func (c Config) compare(mine settings, stored []byte, running []string) error {
	var cluster settings
	if err := json.Unmarshal(stored, &cluster); err != nil {
		return fmt.Errorf("cannot read the cluster's settings: %w", err)
	}
	differ := mine.differences(cluster)
	if len(differ) == 0 {
		return nil
	}
	slices.Sort(running)
	others := slices.DeleteFunc(slices.Compact(running), func(address string) bool { return address == c.Advertised() })
	if len(others) > 0 && !c.Masters.ChangeSettings {
		return fmt.Errorf("cannot start beside the control planes at %s: %s. Give the same flags, or change the cluster's settings with --change-settings, and restart the others with the same flags",
			strings.Join(others, ", "), strings.Join(differ, "; "))
	}
	logrus.Warnf("the cluster's settings change: %s", strings.Join(differ, "; "))
	return nil
}

// masterLeases is where API servers keep a key with a lease while they run (--endpoint-reconciler-type=lease of kube-apiserver).
const masterLeases = "/registry/masterleases/"

// runningServers returns the addresses of the API servers that run on this etcd and that nodes can reach.
func runningServers(ctx context.Context, client *clientv3.Client) (addresses []string, err error) {
	leases, err := client.Get(ctx, masterLeases, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return nil, fmt.Errorf("cannot list the control planes: %w", err)
	}
	return addressesIn(leases.Kvs, masterLeases), nil
}

// addressesIn returns what follows the prefix in the keys.
func addressesIn(kvs []*mvccpb.KeyValue, prefix string) (addresses []string) {
	for _, kv := range kvs {
		addresses = append(addresses, strings.TrimPrefix(string(kv.Key), prefix))
	}
	return addresses
}
