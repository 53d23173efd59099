package run

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	log "github.com/sirupsen/logrus"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/offers"
	"github.com/k8sm/k8sm/scheduler"
	"github.com/k8sm/k8sm/scheduler/run/lanes"
)

// Executor is the content of an ExecutorInfo. Mesos compares the ExecutorInfo of each task with that of the running executor, so
// a record keeps the exact bytes that were launched.
type Executor struct {
	Framework api.FrameworkID
	ID        api.ExecutorID
	Name      string
	Source    string
	Command   string // a shell command
	// Archives are the URIs that the Mesos fetcher unpacks into the sandbox, through its cache
	// (https://mesos.apache.org/documentation/latest/fetcher/).
	Archives  []string
	Resources offers.Resources
	Data      []byte // an api.Bootstrap
}

// ExecutorCodec turns an Executor into a record and back.
type ExecutorCodec interface {
	EncodeExecutor(Executor) ([]byte, error)
	DecodeExecutor(record []byte) (Executor, error)
}

// Tokens creates bootstrap tokens. Its methods may be called concurrently.
type Tokens interface {
	// Issue returns a new token for the next start of the node's minion, which must begin within an hour.
	Issue(ctx context.Context, node string) (string, error)
	// Revoke ends a token. One that has ended is no error.
	Revoke(ctx context.Context, token string) error
}

// Records keeps the records of executors, one for each agent. Its methods may be called concurrently.
type Records interface {
	// Executor returns the record, or nil if there is none.
	Executor(ctx context.Context, agent api.AgentID) ([]byte, error)
	PutExecutor(ctx context.Context, agent api.AgentID, record []byte) error
	DeleteExecutor(ctx context.Context, agent api.AgentID) error
}

// preparerWorkers is how many executors are prepared concurrently.
const preparerWorkers = 8

// preparer performs PrepareExecutor and ForgetExecutor. It stores the records of executors, each with a token of its own.
type preparer struct {
	cfg     Config
	records Records
	tokens  Tokens
	codec   ExecutorCodec
	queue   *lanes.Lanes[scheduler.Action]
	sink    Sink
}

func newPreparer(cfg Config, parts Parts) *preparer {
	p := &preparer{cfg: cfg, records: parts.Store, tokens: parts.Tokens, codec: parts.Codec}
	p.queue = lanes.New(agentOf, p.perform)
	return p
}

// agentOf returns the lane of an action: its agent.
func agentOf(act scheduler.Action) string {
	switch act := act.(type) {
	case scheduler.PrepareExecutor:
		return string(act.Agent)
	case scheduler.ForgetExecutor:
		return string(act.Agent)
	}
	return ""
}

func (p *preparer) do(act scheduler.Action) { p.queue.Add(act) }

func (p *preparer) run(ctx context.Context, sink Sink) error {
	p.sink = sink
	return p.queue.Run(ctx, preparerWorkers)
}

func (p *preparer) perform(ctx context.Context, act scheduler.Action) {
	switch act := act.(type) {
	case scheduler.PrepareExecutor:
		ready, err := p.prepare(ctx, act)
		if err != nil {
			log.WithFields(log.Fields{"agent": act.Agent, "node": act.Node}).WithError(err).Warn("cannot prepare the executor")
			ready.Why = err.Error()
		}
		if err := p.sink(ready); err != nil {
			log.WithError(err).Debug("cannot report the executor: the scheduler has stopped")
		}
	case scheduler.ForgetExecutor:
		if err := p.records.DeleteExecutor(ctx, act.Agent); err != nil {
			log.WithField("agent", act.Agent).WithError(err).Warn("cannot delete the record of the executor")
		}
	}
}

// prepare returns the record to launch: that of the executor that runs, or a new one with a new token. Readers of the Mesos master may
// see the record of an executor that runs, so its token is never made valid again.
func (p *preparer) prepare(ctx context.Context, act scheduler.PrepareExecutor) (scheduler.ExecutorReady, error) {
	none := scheduler.ExecutorReady{Agent: act.Agent}
	record, err := p.records.Executor(ctx, act.Agent)
	if err != nil {
		return none, fmt.Errorf("cannot read its record: %w", err)
	}
	if record == nil && !act.MayReplace {
		return none, errors.New("an executor of this framework runs there, but its record is lost: stop that executor first")
	}
	if act.MayReplace {
		if record, err = p.renew(ctx, act, record); err != nil {
			return none, err
		}
	}
	executor, err := p.codec.DecodeExecutor(record)
	if err != nil {
		return none, fmt.Errorf("an executor of this framework runs there, but its record cannot be read: stop that executor first: %w", err)
	}
	return scheduler.ExecutorReady{Agent: act.Agent, Record: record, Kept: !act.MayReplace, Resources: executor.Resources}, nil
}

// revoke ends the token in a record, if there is one.
func (p *preparer) revoke(ctx context.Context, record []byte) error {
	if record == nil {
		return nil
	}
	var bootstrap api.Bootstrap
	executor, err := p.codec.DecodeExecutor(record)
	if err == nil {
		bootstrap, err = api.ParseBootstrap(executor.Data)
	}
	if err != nil {
		log.WithError(err).Warn("cannot read the record of an executor that has ended: it gets a new one, and its old bootstrap token ends within an hour")
		return nil
	}
	if err := p.tokens.Revoke(ctx, bootstrap.Token); err != nil {
		return fmt.Errorf("cannot end its old bootstrap token: %w", err)
	}
	return nil
}

// renew stores and returns a record for the current configuration, with a new token instead of the old record's.
func (p *preparer) renew(ctx context.Context, act scheduler.PrepareExecutor, old []byte) ([]byte, error) {
	if p.cfg.KMPath == "" {
		if err := p.cfg.Artifact.reachable(act.Address); err != nil {
			return nil, err
		}
	}
	if err := p.revoke(ctx, old); err != nil {
		return nil, err
	}
	token, err := p.tokens.Issue(ctx, act.Node)
	if err != nil {
		return nil, fmt.Errorf("cannot create its bootstrap token: %w", err)
	}
	boot := api.Bootstrap{Cluster: p.cfg.Cluster, Node: act.Node, APIServer: p.cfg.APIServer, Token: token}
	if p.cfg.CA != nil {
		if boot.CA, err = p.cfg.CA(); err != nil {
			return nil, fmt.Errorf("cannot read the cluster's CA: %w", err)
		}
	}
	if p.cfg.APIServers != nil {
		boot.APIServers = p.cfg.APIServers()
	}
	data, err := json.Marshal(boot)
	if err != nil {
		return nil, err
	}
	executor := Executor{
		Framework: act.Framework,
		ID:        api.MinionExecutorID,
		Name:      "k8sm minion of " + act.Node,
		Source:    p.cfg.Cluster,
		Command:   "exec " + shellQuote(p.cfg.KMPath) + " " + minionCommand(act.Engine),
		Resources: act.Resources,
		Data:      data,
	}
	if p.cfg.KMPath == "" {
		executor.Command, executor.Archives = p.cfg.Artifact.command(minionCommand(act.Engine)), []string{p.cfg.Artifact.URL}
	}
	record, err := p.codec.EncodeExecutor(executor)
	if err != nil {
		return nil, err
	}
	if err := p.records.PutExecutor(ctx, act.Agent, record); err != nil {
		return nil, fmt.Errorf("cannot store its record: %w", err)
	}
	return record, nil
}
