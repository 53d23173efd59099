package controlplane

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/k8sm/k8sm/api/etcd"
	"github.com/k8sm/k8sm/api/state"
	"github.com/k8sm/k8sm/api/statedir"
)

// Roles in the embedded etcd. The root role is etcd's own.
const (
	etcdRootRole      = "root"
	etcdSchedulerRole = "k8sm"
	etcdMetricsRole   = "k8sm-metrics"
)

// authorize turns on etcd's authentication, by the common names in client certificates, and gives each user its rights
// (https://etcd.io/docs/v3.6/op-guide/authentication/rbac/). It runs at each start and changes nothing that is right already.
func authorize(ctx context.Context, root statedir.Etcd, cluster string) error {
	client, err := etcd.Dial(root)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	if err := addUsers(ctx, client, cluster); err != nil {
		return fmt.Errorf("cannot set up etcd's users: %w", err)
	}
	if _, err := client.AuthEnable(ctx); err != nil {
		return fmt.Errorf("cannot turn on etcd's authentication: %w", err)
	}
	return nil
}

func addUsers(ctx context.Context, client *clientv3.Client, cluster string) error {
	for _, role := range []string{etcdRootRole, etcdSchedulerRole, etcdMetricsRole} {
		if _, err := client.RoleAdd(ctx, role); err != nil && !errors.Is(err, rpctypes.ErrRoleAlreadyExist) {
			return fmt.Errorf("role %s: %w", role, err)
		}
	}
	for _, grant := range []struct {
		role, prefix string
		may          clientv3.PermissionType
	}{
		{etcdSchedulerRole, state.Prefix, clientv3.PermissionType(clientv3.PermReadWrite)},
		{etcdMetricsRole, state.LeaderPrefix(cluster), clientv3.PermissionType(clientv3.PermRead)},
	} {
		if _, err := client.RoleGrantPermission(ctx, grant.role, grant.prefix, clientv3.GetPrefixRangeEnd(grant.prefix), grant.may); err != nil {
			return fmt.Errorf("role %s: %w", grant.role, err)
		}
	}
	for user, role := range map[string]string{
		statedir.EtcdRoot:          etcdRootRole,
		statedir.APIServerEtcdUser: etcdRootRole, // all keys are its own, and it asks for the status
		statedir.SchedulerEtcdUser: etcdSchedulerRole,
		statedir.MetricsEtcdUser:   etcdMetricsRole,
	} {
		_, err := client.UserAddWithOptions(ctx, user, "", &clientv3.UserAddOptions{NoPassword: true})
		if err != nil && !errors.Is(err, rpctypes.ErrUserAlreadyExist) {
			return fmt.Errorf("user %s: %w", user, err)
		}
		if _, err := client.UserGrantRole(ctx, user, role); err != nil {
			return fmt.Errorf("user %s: %w", user, err)
		}
	}
	return nil
}
