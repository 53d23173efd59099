// Package state keeps in etcd what k8sm must remember and Kubernetes has no place for: the framework id that Mesos assigned, the
// leader among several schedulers, and the executor launched on each agent. All keys are below /k8sm/<cluster name>/. The package
// does not interpret the values.
//
// Start reading at Store; leader.go says who may write.
package state

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"path"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/k8sm/k8sm/api"
)

// Config says where etcd is, and which cluster's state to use.
type Config struct {
	// Endpoints are etcd's URLs.
	Endpoints []string
	// CAFile, CertFile and KeyFile are for an etcd that requires TLS; all may be empty.
	CAFile, CertFile, KeyFile string
	// Name is the cluster's name, so that several clusters can share an etcd.
	Name string
}

var (
	// ErrConflict says that the stored value is not the expected one.
	ErrConflict = errors.New("the stored value has changed")
	// ErrNotLeader says that this store has lost leadership, so that its writes are rejected.
	ErrNotLeader = errors.New("this scheduler is not the leader any more")
)

const dialTimeout = 5 * time.Second

const frameworkID = "/framework-id" // below the prefix

// Prefix begins all keys of all clusters.
const Prefix = "/k8sm/"

// prefixOf returns the prefix of all keys of the cluster with this name.
func prefixOf(name string) string { return path.Join(Prefix, name) }

// Store reads and writes the state. Its methods may be called concurrently.
type Store struct {
	client *clientv3.Client
	prefix string

	mu     sync.Mutex  // guards leader
	leader *leadership // nil until Lead has returned once

	watchers sync.WaitGroup // the goroutines that Open and Lead start
}

// Open connects to etcd and returns an error unless etcd answers. The caller must call Close.
func Open(ctx context.Context, c Config) (*Store, error) {
	if c.Name == "" || strings.Contains(c.Name, "/") {
		return nil, fmt.Errorf("cannot open the state of cluster %q: invalid name", c.Name)
	}
	client, members, err := c.connect()
	if err != nil {
		return nil, err
	}
	s := &Store{client: client, prefix: prefixOf(c.Name)}
	if len(c.Endpoints) > 1 {
		s.watchers.Go(func() { members.run(client.Ctx()) })
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if _, err := s.FrameworkID(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot reach etcd at %s: %w", strings.Join(c.Endpoints, ", "), err), s.Close())
	}
	return s, nil
}

// connect returns a client, whether etcd answers or not, and the members that it uses. The caller closes it.
func (c Config) connect() (*clientv3.Client, *members, error) {
	tlsConfig, err := c.tls()
	if err != nil {
		return nil, nil, err
	}
	config := clientv3.Config{Endpoints: c.Endpoints, TLS: tlsConfig, DialTimeout: dialTimeout, Logger: zap.NewNop()}
	members := newMembers(config)
	config.DialOptions = members.options()
	client, err := clientv3.New(config)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot connect to etcd at %s: %w", strings.Join(c.Endpoints, ", "), err)
	}
	return client, members, nil
}

func (c Config) tls() (*tls.Config, error) {
	if c.CAFile+c.CertFile+c.KeyFile == "" {
		return nil, nil
	}
	info := transport.TLSInfo{TrustedCAFile: c.CAFile, CertFile: c.CertFile, KeyFile: c.KeyFile}
	config, err := info.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("cannot use the certificates for etcd: %w", err)
	}
	return config, nil
}

// Close gives up leadership, if held, and disconnects.
func (s *Store) Close() error {
	var resign error
	if l := s.leading(); l != nil {
		resign = l.session.Close() // revokes the lease, so that another scheduler need not wait until it expires
	}
	err := s.client.Close()
	s.watchers.Wait()
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	if err = errors.Join(resign, err); err != nil {
		return fmt.Errorf("cannot close the state cleanly: %w", err)
	}
	return nil
}

// FrameworkKey returns the etcd key of the framework id of the cluster with this name.
func FrameworkKey(name string) string { return prefixOf(name) + frameworkID }

func (s *Store) frameworkKey() string { return s.prefix + frameworkID }

func (s *Store) executorKey(agent api.AgentID) string {
	return s.prefix + "/executors/" + string(agent)
}

// FrameworkID returns the id that Mesos assigned to this cluster's framework, or "" if there is none yet.
func (s *Store) FrameworkID(ctx context.Context) (api.FrameworkID, error) {
	value, err := s.get(ctx, s.frameworkKey())
	if err != nil {
		return "", fmt.Errorf("cannot read the framework id: %w", err)
	}
	return api.FrameworkID(value), nil
}

// ReplaceFrameworkID stores the next id, or removes it if next is "", provided that the stored one is old ("" for none). Otherwise
// the error is ErrConflict, or ErrNotLeader.
func (s *Store) ReplaceFrameworkID(ctx context.Context, old, next api.FrameworkID) error {
	key := s.frameworkKey()
	is := clientv3.Compare(clientv3.Value(key), "=", string(old))
	if old == "" {
		is = clientv3.Compare(clientv3.CreateRevision(key), "=", 0)
	}
	write := clientv3.OpPut(key, string(next))
	if next == "" {
		write = clientv3.OpDelete(key)
	}
	r, err := s.client.Txn(ctx).If(append(s.guard(), is)...).Then(write).Else(clientv3.OpGet(key)).Commit()
	switch {
	case err != nil:
	case r.Succeeded:
		return nil
	case valueOf(r.Responses[0].GetResponseRange().Kvs) != string(old):
		err = ErrConflict
	default:
		err = ErrNotLeader
	}
	return fmt.Errorf("cannot replace framework id %q by %q: %w", old, next, err)
}

// Executor returns what PutExecutor stored for the agent, or nil.
func (s *Store) Executor(ctx context.Context, agent api.AgentID) ([]byte, error) {
	value, err := s.get(ctx, s.executorKey(agent))
	if err != nil {
		return nil, fmt.Errorf("cannot read the executor of agent %s: %w", agent, err)
	}
	return value, nil
}

// Executors returns the stored executors of all agents.
func (s *Store) Executors(ctx context.Context) (map[api.AgentID][]byte, error) {
	prefix := s.executorKey("")
	r, err := s.client.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, fmt.Errorf("cannot list the executors: %w", err)
	}
	executors := make(map[api.AgentID][]byte, len(r.Kvs))
	for _, kv := range r.Kvs {
		executors[api.AgentID(strings.TrimPrefix(string(kv.Key), prefix))] = kv.Value
	}
	return executors, nil
}

// PutExecutor stores the executor as launched on the agent. The error is ErrNotLeader if leadership was lost.
func (s *Store) PutExecutor(ctx context.Context, agent api.AgentID, executor []byte) error {
	if err := s.write(ctx, clientv3.OpPut(s.executorKey(agent), string(executor))); err != nil {
		return fmt.Errorf("cannot store the executor of agent %s: %w", agent, err)
	}
	return nil
}

// DeleteExecutor removes the executor of an agent that is gone. It is no error if there is none.
func (s *Store) DeleteExecutor(ctx context.Context, agent api.AgentID) error {
	if err := s.write(ctx, clientv3.OpDelete(s.executorKey(agent))); err != nil {
		return fmt.Errorf("cannot delete the executor of agent %s: %w", agent, err)
	}
	return nil
}

func (s *Store) get(ctx context.Context, key string) ([]byte, error) {
	r, err := s.client.Get(ctx, key)
	if err != nil || len(r.Kvs) == 0 {
		return nil, err
	}
	return r.Kvs[0].Value, nil
}

func (s *Store) write(ctx context.Context, op clientv3.Op) error {
	r, err := s.client.Txn(ctx).If(s.guard()...).Then(op).Commit()
	if err != nil {
		return err
	}
	if !r.Succeeded {
		return ErrNotLeader
	}
	return nil
}
