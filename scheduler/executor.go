package scheduler

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	log "github.com/sirupsen/logrus"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/offers"
	"github.com/k8sm/k8sm/scheduler/lanes"
)

// Executor is what an ExecutorInfo says. Mesos compares it whole with that of the executor that runs already, so it is
// kept as a record, in the bytes that were launched.
type Executor struct {
	Framework api.FrameworkID
	ID        api.ExecutorID
	Name      string
	Source    string
	Command   string // for a shell
	// Archives are URIs of what the fetcher of Mesos unpacks into the sandbox, by way of its cache
	// (https://mesos.apache.org/documentation/latest/fetcher/).
	Archives  []string
	Resources offers.Resources
	Data      []byte // an api.Bootstrap
}

// Artifact is where agents fetch the archive km.tar.gz with the km program from.
type Artifact struct {
	URL    string
	SHA256 string // of the program, in hexadecimal
}

// ExecutorCodec turns an Executor into a record and back.
type ExecutorCodec interface {
	EncodeExecutor(Executor) ([]byte, error)
	DecodeExecutor(record []byte) (Executor, error)
}

// Tokens makes bootstrap tokens.
type Tokens interface {
	// Arm makes the token valid for the next hour, for the node with this name only, and returns it; an empty token
	// means a new one. It brings a token back that was cleaned up.
	Arm(ctx context.Context, node, token string) (string, error)
}

// Records keeps the records of executors, one for each agent.
type Records interface {
	// Executor returns the record, or nil if there is none.
	Executor(ctx context.Context, agent api.AgentID) ([]byte, error)
	PutExecutor(ctx context.Context, agent api.AgentID, record []byte) error
	DeleteExecutor(ctx context.Context, agent api.AgentID) error
}

// keeperWorkers is how many executors are prepared at the same time.
const keeperWorkers = 8

// keeper keeps the records of the executors and the tokens in them.
type keeper struct {
	cfg     Config
	records Records
	tokens  Tokens
	codec   ExecutorCodec
	queue   *lanes.Lanes[Action]
	sink    Sink
}

func newKeeper(cfg Config, parts Parts) *keeper {
	k := &keeper{cfg: cfg, records: parts.Store, tokens: parts.Tokens, codec: parts.Codec}
	k.queue = lanes.New(agentOf, k.perform)
	return k
}

func agentOf(act Action) string {
	switch act := act.(type) {
	case PrepareExecutor:
		return string(act.Agent)
	case ForgetExecutor:
		return string(act.Agent)
	}
	return ""
}

func (k *keeper) do(act Action) { k.queue.Add(act) }

func (k *keeper) run(ctx context.Context, sink Sink) error {
	k.sink = sink
	return k.queue.Run(ctx, keeperWorkers)
}

func (k *keeper) perform(ctx context.Context, act Action) {
	switch act := act.(type) {
	case PrepareExecutor:
		ready, err := k.prepare(ctx, act)
		if err != nil {
			log.WithFields(log.Fields{"agent": act.Agent, "node": act.Node}).WithError(err).Warn("cannot prepare the executor")
		}
		if err := k.sink(ready); err != nil {
			log.WithError(err).Debug("an executor was prepared for nobody")
		}
	case ForgetExecutor:
		if err := k.records.DeleteExecutor(ctx, act.Agent); err != nil {
			log.WithField("agent", act.Agent).WithError(err).Warn("cannot forget the executor")
		}
	}
}

// prepare returns the record that Mesos has to be given, with a valid token in it.
func (k *keeper) prepare(ctx context.Context, act PrepareExecutor) (ExecutorReady, error) {
	none := ExecutorReady{Agent: act.Agent}
	record, err := k.records.Executor(ctx, act.Agent)
	if err != nil {
		return none, fmt.Errorf("cannot read its record: %w", err)
	}
	if record == nil && !act.MayReplace {
		return none, errors.New("an executor of ours runs there, but its record is lost: it has to end first")
	}
	token, err := k.tokenIn(record)
	if err != nil {
		return none, err
	}
	token, err = k.tokens.Arm(ctx, act.Node, token)
	if err != nil {
		return none, fmt.Errorf("cannot make its bootstrap token: %w", err)
	}
	if act.MayReplace {
		if record, err = k.renew(ctx, act, record, token); err != nil {
			return none, err
		}
	}
	executor, err := k.codec.DecodeExecutor(record)
	if err != nil {
		return none, err
	}
	return ExecutorReady{Agent: act.Agent, Record: record, Kept: !act.MayReplace, Resources: executor.Resources}, nil
}

func (k *keeper) tokenIn(record []byte) (string, error) {
	if record == nil {
		return "", nil
	}
	executor, err := k.codec.DecodeExecutor(record)
	if err != nil {
		return "", err
	}
	bootstrap, err := api.ParseBootstrap(executor.Data)
	return bootstrap.Token, err
}

// renew returns the record as this scheduler would write it, and stores it if it is another than before.
func (k *keeper) renew(ctx context.Context, act PrepareExecutor, old []byte, token string) ([]byte, error) {
	data, err := json.Marshal(api.Bootstrap{
		Cluster: k.cfg.Cluster, Node: act.Node, APIServer: k.cfg.APIServer, CA: k.cfg.CA, Token: token,
	})
	if err != nil {
		return nil, err
	}
	executor := Executor{
		Framework: act.Framework,
		ID:        api.MinionExecutorID,
		Name:      "k8sm minion of " + act.Node,
		Source:    k.cfg.Cluster,
		Command:   "exec " + shellQuote(k.cfg.KMPath) + " " + k.cfg.minion(),
		Resources: act.Resources,
		Data:      data,
	}
	if k.cfg.KMPath == "" {
		if err := k.cfg.Artifact.reachable(act.Address); err != nil {
			return nil, err
		}
		executor.Command, executor.Archives = k.cfg.Artifact.command(k.cfg.minion()), []string{k.cfg.Artifact.URL}
	}
	record, err := k.codec.EncodeExecutor(executor)
	if err != nil || bytes.Equal(record, old) {
		return record, err
	}
	if err := k.records.PutExecutor(ctx, act.Agent, record); err != nil {
		return nil, fmt.Errorf("cannot store its record: %w", err)
	}
	return record, nil
}

// minion is the km command of the executor, with what it has to know before it can reach the cluster.
func (c Config) minion() string {
	if c.DockerHost == "" {
		return "minion"
	}
	return "minion --" + api.MinionEngineFlag + "=" + shellQuote(c.DockerHost)
}

// command runs what was fetched if it is what the scheduler serves: Mesos does not check that. A fetcher whose cache has no
// room for the archive unpacks it in the sandbox and leaves it there (fetchBypassingCache in Mesos's src/launcher/fetcher.cpp).
// The program removes itself from the sandbox when it has started.
func (a Artifact) command(minion string) string {
	wrong := fmt.Sprintf("the km that was fetched from %s is not the scheduler's: its SHA-256 is not %s. "+
		"Something on the way changes it, or the agent's fetcher cache is broken", a.URL, a.SHA256)
	return fmt.Sprintf("rm -f km.tar.gz; echo '%s  km' | sha256sum -c - >&2 || { echo %s >&2; exit 1; }; "+
		"test -x km || { echo %s >&2; exit 1; }; exec ./km %s", a.SHA256, shellQuote(wrong), shellQuote(noExec), minion)
}

// noExec is said in the sandbox of an agent on which the command can start no program there: access(2) knows of noexec, too.
const noExec = "km cannot be executed in the sandbox: the file system of the Mesos agent's --work_dir is mounted with noexec, or for this user. " +
	"Mount it with exec, give the agent another --work_dir, or install km on the agents and give --km-path to km scheduler"

// reachable returns an error if the agent, of which the address is "ip:port" or unknown, certainly cannot fetch the program.
func (a Artifact) reachable(agent string) error {
	from, err := url.Parse(a.URL)
	if err != nil {
		return fmt.Errorf("cannot tell where km is served: %w", err)
	}
	host, _, _ := net.SplitHostPort(agent)
	served, there := net.ParseIP(from.Hostname()), net.ParseIP(host)
	if (from.Hostname() == "localhost" || served != nil && served.IsLoopback()) && there != nil && !there.IsLoopback() {
		return fmt.Errorf("km is served at %s, which the agent at %s cannot reach: give --artifact-address=HOST:PORT with an address that it can, "+
			"or --km-path of a km that is installed there", a.URL, agent)
	}
	return nil
}

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
