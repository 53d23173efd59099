package controlplane

import (
	"context"
	"errors"
	"fmt"
	"slices"

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

// addUsers adds what is missing. etcd would log a warning for each user and role that is there already.
func addUsers(ctx context.Context, client *clientv3.Client, cluster string) error {
	roles, err := client.RoleList(ctx)
	if err != nil {
		return fmt.Errorf("roles: %w", err)
	}
	for _, role := range []string{etcdRootRole, etcdSchedulerRole, etcdMetricsRole} {
		if slices.Contains(roles.Roles, role) {
			continue
		}
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
	users, err := client.UserList(ctx)
	if err != nil {
		return fmt.Errorf("users: %w", err)
	}
	enrol := enrolment{client: client, known: users.Users}
	for user, role := range map[string]string{
		statedir.EtcdRoot:          etcdRootRole,
		statedir.APIServerEtcdUser: etcdRootRole, // all keys are its own, and it asks for the status
		statedir.SchedulerEtcdUser: etcdSchedulerRole,
		statedir.MetricsEtcdUser:   etcdMetricsRole,
	} {
		if err := enrol.add(ctx, user, role); err != nil {
			return fmt.Errorf("user %s: %w", user, err)
		}
	}
	return nil
}

// enrolment adds users of etcd, of which some are known.
type enrolment struct {
	client *clientv3.Client
	known  []string
}

// add adds a user, unless it is known, and gives it the role, unless it has that. Another control plane may do it at the same time.
func (e enrolment) add(ctx context.Context, user, role string) error {
	if slices.Contains(e.known, user) {
		has, err := e.client.UserGet(ctx, user)
		if err != nil || slices.Contains(has.Roles, role) {
			return err
		}
	} else {
		_, err := e.client.UserAddWithOptions(ctx, user, "", &clientv3.UserAddOptions{NoPassword: true})
		if err != nil && !errors.Is(err, rpctypes.ErrUserAlreadyExist) {
			return err
		}
	}
	_, err := e.client.UserGrantRole(ctx, user, role)
	return err
}
