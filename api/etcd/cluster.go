package etcd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/k8sm/k8sm/api/statedir"
)

// patience is how long one question to etcd may take.
const patience = 5 * time.Second

// ClientConfig returns the configuration of clients of etcd with these certificates, if there are any.
func ClientConfig(access statedir.Etcd) (clientv3.Config, error) {
	config := clientv3.Config{Endpoints: access.Endpoints, Logger: zap.NewNop()}
	if access.CAFile+access.CertFile+access.KeyFile == "" {
		return config, nil
	}
	info := transport.TLSInfo{TrustedCAFile: access.CAFile, CertFile: access.CertFile, KeyFile: access.KeyFile}
	trusted, err := info.ClientConfig()
	if err != nil {
		return config, fmt.Errorf("cannot use the certificates for etcd: %w", err)
	}
	config.TLS = trusted
	return config, nil
}

// Dial returns a client of etcd. The caller closes it.
func Dial(access statedir.Etcd) (*clientv3.Client, error) {
	config, err := ClientConfig(access)
	if err != nil {
		return nil, err
	}
	client, err := clientv3.New(config)
	if err != nil {
		return nil, fmt.Errorf("cannot connect to etcd: %w", err)
	}
	return client, nil
}

// untilDone repeats a step, with pauses, until it succeeds or ctx ends.
func untilDone(ctx context.Context, problem string, step func(context.Context) error) error {
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, patience) {
		attempt, cancel := context.WithTimeout(ctx, patience)
		err := step(attempt)
		cancel()
		if err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		logrus.WithError(err).Debug("etcd: " + problem)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// errNoQuorum says that too few members answer to change anything.
var errNoQuorum = errors.New("the cluster has no quorum: too few of its members answer. Start those that are down; if they are gone for good, " +
	"go on with one that is left (km etcd recover), or restore a snapshot (km snapshot restore)")

// members lists the members. The error is errNoQuorum if the cluster cannot answer.
func members(ctx context.Context, c *clientv3.Client) ([]*etcdserverpb.Member, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	list, err := c.MemberList(ctx)
	if err != nil {
		if ctx.Err() != nil || errors.Is(err, rpctypes.ErrNoLeader) || errors.Is(err, rpctypes.ErrTimeout) {
			if reachable(ctx, c) {
				return nil, errNoQuorum
			}
		}
		return nil, fmt.Errorf("cannot list the members: %w", err)
	}
	return list.Members, nil
}

// reachable reports whether any endpoint answers for itself.
func reachable(ctx context.Context, c *clientv3.Client) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	for _, endpoint := range c.Endpoints() {
		if _, err := c.Status(ctx, endpoint); err == nil {
			return true
		}
	}
	return false
}

// alive reports whether the member answers at one of its client URLs.
func alive(ctx context.Context, c *clientv3.Client, m *etcdserverpb.Member) bool {
	ctx, cancel := context.WithTimeout(ctx, patience/2)
	defer cancel()
	for _, u := range m.ClientURLs {
		if _, err := c.Status(ctx, u); err == nil {
			return true
		}
	}
	return false
}

// join adds this member to the cluster as a learner, and returns the peer URLs of all members by name. A member with this one's name
// that lives is an error. If it had this one's address and is dead, its data are gone, and this one takes its place.
func (m *Member) join(ctx context.Context, endpoints []string) (peers map[string]string, err error) {
	c, err := Dial(m.access(endpoints...))
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	list, err := members(ctx, c)
	if err != nil {
		return nil, err
	}
	added := false
	for _, other := range list {
		switch here := slices.Contains(other.PeerURLs, m.peerURL()); {
		case here && other.Name == "":
			added = true // an earlier join was interrupted
		case other.Name != m.Name && !here:
		case alive(ctx, c, other):
			return nil, fmt.Errorf("the member %s, which has this name or address, lives at %s: choose another --name or --advertise-address", other.Name, strings.Join(other.ClientURLs, ", "))
		case !here:
			return nil, fmt.Errorf("there is a member %s at %s, which does not answer: if it is gone for good, call km etcd leave %s first; else choose another --name",
				other.Name, strings.Join(other.PeerURLs, ", "), other.Name)
		default:
			logrus.WithField("member", other.Name).Warn("etcd: removing the member that was at this address and has lost its data")
			if _, err := c.MemberRemove(ctx, other.ID); err != nil {
				return nil, explain(err)
			}
		}
	}
	if !added {
		err := retryUnhealthy(ctx, func(ctx context.Context) error {
			_, err := c.MemberAddAsLearner(ctx, []string{m.peerURL()})
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	if list, err = members(ctx, c); err != nil {
		return nil, err
	}
	peers = map[string]string{}
	for _, other := range list {
		name := cmp.Or(other.Name, strconv.FormatUint(other.ID, 16))
		if slices.Contains(other.PeerURLs, m.peerURL()) {
			name = m.Name
		}
		peers[name] = other.PeerURLs[0]
	}
	return peers, nil
}

// healthWait is how long etcd may find its members unhealthy: it wants each connection to have lasted 5 s before it adds or removes one.
const healthWait = 20 * time.Second

// retryUnhealthy repeats a change of the members while etcd says that they are not healthy enough.
func retryUnhealthy(ctx context.Context, change func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, healthWait)
	defer cancel()
	for {
		err := change(ctx)
		if !errors.Is(err, rpctypes.ErrUnhealthy) && !errors.Is(err, rpctypes.ErrTooManyLearners) {
			return explain(err)
		}
		select {
		case <-ctx.Done():
			return explain(err)
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// explain adds what to do to an error of a change of the members.
func explain(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, rpctypes.ErrMemberNotEnoughStarted), errors.Is(err, rpctypes.ErrUnhealthy):
		return fmt.Errorf("the members that answer would be too few to go on: start those that are down first (%w)", err)
	case errors.Is(err, rpctypes.ErrTooManyLearners):
		return fmt.Errorf("another member is joining: try again when km etcd status shows that it votes (%w)", err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, rpctypes.ErrNoLeader), errors.Is(err, rpctypes.ErrTimeout):
		return fmt.Errorf("%w (%w)", errNoQuorum, err)
	}
	return err
}

// promote makes a learner a member that votes, once it has caught up.
func promote(ctx context.Context, c *clientv3.Client, id uint64) error {
	for {
		attempt, cancel := context.WithTimeout(ctx, patience)
		_, err := c.MemberPromote(attempt, id)
		cancel()
		switch {
		case err == nil, errors.Is(err, rpctypes.ErrMemberNotLearner):
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, rpctypes.ErrMemberNotFound):
			return ErrRemoved
		}
		logrus.WithError(err).Debug("etcd: this member cannot vote yet")
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// Leave removes a member, by its name or its id in hexadecimal digits, or that of the first endpoint if name is empty. It refuses if the others that answer would be no majority. A
// leader hands its lead on first.
func Leave(ctx context.Context, access statedir.Etcd, name string) error {
	c, err := Dial(access)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	list, err := members(ctx, c)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(list, func(m *etcdserverpb.Member) bool {
		return name != "" && (m.Name == name || strconv.FormatUint(m.ID, 16) == name) || name == "" && slices.Contains(m.ClientURLs, access.Endpoints[0])
	})
	if i < 0 {
		return fmt.Errorf("there is no member %s: km etcd status lists them", cmp.Or(name, "at "+access.Endpoints[0]))
	}
	leaving := list[i]
	name = cmp.Or(name, leaving.Name)
	var voters, living []*etcdserverpb.Member // of the others
	for _, m := range list {
		if m == leaving || m.IsLearner {
			continue
		}
		voters = append(voters, m)
		if alive(ctx, c, m) {
			living = append(living, m)
		}
	}
	switch {
	case len(voters) == 0:
		return fmt.Errorf("%s is the only member that votes: without it there is no cluster", name)
	case len(living) <= len(voters)/2:
		return fmt.Errorf("of the other %d members only %d answer: without %s the cluster would lose its quorum. Start those that are down first", len(voters), len(living), name)
	}
	if err := handOn(ctx, access, leaving, living[0]); err != nil {
		return err
	}
	access.Endpoints = nil
	for _, m := range living {
		access.Endpoints = append(access.Endpoints, m.ClientURLs...)
	}
	return remove(ctx, access, leaving.ID)
}

// remove asks other members to remove one, which may stop before it has answered.
func remove(ctx context.Context, others statedir.Etcd, id uint64) error {
	c, err := Dial(others)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	return retryUnhealthy(ctx, func(ctx context.Context) error {
		_, err := c.MemberRemove(ctx, id)
		if errors.Is(err, rpctypes.ErrMemberNotFound) {
			return nil // an attempt before
		}
		return err
	})
}

// handOn makes another member the leader if this one is. Only the leader can do it.
func handOn(ctx context.Context, access statedir.Etcd, from, to *etcdserverpb.Member) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	access.Endpoints = from.ClientURLs
	if len(from.ClientURLs) == 0 {
		return nil
	}
	c, err := Dial(access)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	status, err := c.Status(ctx, from.ClientURLs[0])
	if err != nil || status.Leader != from.ID {
		return nil // it is dead, or no leader
	}
	if _, err := c.MoveLeader(ctx, to.ID); err != nil {
		return fmt.Errorf("cannot make %s the leader: %w", to.Name, err)
	}
	return nil
}

// Status is what is known of a member.
type Status struct {
	Name       string   `json:"name"`
	ID         string   `json:"id"`
	PeerURLs   []string `json:"peerURLs"`
	ClientURLs []string `json:"clientURLs,omitempty"`
	// Role is leader, follower or learner; "" if the member does not answer, and Problem says why.
	Role    string `json:"role,omitempty"`
	Problem string `json:"problem,omitempty"`
	Version string `json:"version,omitempty"`
	// Size, InUse and Quota of its database are in bytes. What is not in use comes back by defragmentation.
	Size  int64 `json:"size,omitempty"`
	InUse int64 `json:"inUse,omitempty"`
	Quota int64 `json:"quota,omitempty"`
	// Lag is by how many entries of the log the member is behind.
	Lag uint64 `json:"lag"`
	// Alarms are NOSPACE and CORRUPT.
	Alarms []string `json:"alarms,omitempty"`
}

// Read returns the status of all members, those that do not answer too. Without a quorum it knows those of the endpoints only.
func Read(ctx context.Context, c *clientv3.Client) ([]Status, error) {
	list, err := members(ctx, c)
	if errors.Is(err, errNoQuorum) {
		if list, err = stale(ctx, c); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	all := make([]Status, len(list))
	applied := make([]uint64, len(list))
	var asked sync.WaitGroup
	for i, m := range list {
		asked.Go(func() { all[i], applied[i] = ask(ctx, c, m) })
	}
	asked.Wait()
	last := slices.Max(applied)
	for i := range all {
		if all[i].Role != "" {
			all[i].Lag = last - applied[i]
		}
	}
	slices.SortFunc(all, func(a, b Status) int { return cmp.Compare(a.Name, b.Name) })
	return all, nil
}

// stale lists the members as one of them knows them, which needs no quorum.
func stale(ctx context.Context, c *clientv3.Client) ([]*etcdserverpb.Member, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	list, err := c.MemberList(ctx, clientv3.WithSerializable())
	if err != nil {
		return nil, fmt.Errorf("cannot list the members: %w", err)
	}
	return list.Members, nil
}

// ask asks one member, and returns up to which entry of the log it is.
func ask(ctx context.Context, c *clientv3.Client, m *etcdserverpb.Member) (s Status, applied uint64) {
	s = Status{Name: m.Name, ID: strconv.FormatUint(m.ID, 16), PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs, Problem: "it has not started yet"}
	ctx, cancel := context.WithTimeout(ctx, patience/2)
	defer cancel()
	for _, u := range m.ClientURLs {
		got, err := c.Status(ctx, u)
		if err != nil {
			s.Problem = "it does not answer: " + err.Error()
			continue
		}
		s.Problem, s.Role = "", "follower"
		switch {
		case got.IsLearner:
			s.Role = "learner"
		case got.Leader == m.ID:
			s.Role = "leader"
		case got.Leader == 0:
			s.Problem = "it knows no leader"
		}
		s.Version, s.Size, s.InUse, s.Quota = got.Version, got.DbSize, got.DbSizeInUse, got.DbSizeQuota
		for _, e := range got.Errors {
			for _, alarm := range []string{"NOSPACE", "CORRUPT"} {
				if strings.Contains(e, alarm) {
					s.Alarms = append(s.Alarms, alarm)
				}
			}
		}
		return s, got.RaftAppliedIndex
	}
	return s, 0
}
