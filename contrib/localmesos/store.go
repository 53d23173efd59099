package localmesos

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"

	mesos "github.com/mesos/mesos-go/api/v1/lib"
	"github.com/mesos/mesos-go/api/v1/lib/maintenance"
	"github.com/mesos/mesos-go/api/v1/lib/quota"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/contrib/localmesos/wire"
)

// document is a message in Mesos' JSON encoding in a file.
type document[T any, M interface {
	*T
	wire.Message
}] struct{ message T }

// MarshalJSON implements json.Marshaler.
func (d document[T, M]) MarshalJSON() ([]byte, error) { return wire.MarshalJSON(M(&d.message)) }

// UnmarshalJSON implements json.Unmarshaler.
func (d *document[T, M]) UnmarshalJSON(data []byte) error {
	return wire.UnmarshalJSON(data, M(&d.message))
}

type (
	frameworkDocument   = document[mesos.FrameworkInfo, *mesos.FrameworkInfo]
	executorDocument    = document[mesos.ExecutorInfo, *mesos.ExecutorInfo]
	taskDocument        = document[mesos.TaskInfo, *mesos.TaskInfo]
	statusDocument      = document[mesos.TaskStatus, *mesos.TaskStatus]
	scheduleDocument    = document[maintenance.Schedule, *maintenance.Schedule]
	machineDocument     = document[mesos.MachineID, *mesos.MachineID]
	drainInfoDocument   = document[mesos.DrainInfo, *mesos.DrainInfo]
	resourceDocument    = document[mesos.Resource, *mesos.Resource]
	drainConfigDocument = document[mesos.DrainConfig, *mesos.DrainConfig]
	quotaDocument       = document[quota.QuotaConfig, *quota.QuotaConfig]
)

// writeFile replaces a JSON file atomically.
func writeFile(path string, content any) error {
	data, err := json.MarshalIndent(content, "", " ")
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// readFile reads a JSON file; found is false if there is none.
func readFile(path string, content any) (found bool, err error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err == nil {
		err = json.Unmarshal(data, content)
	}
	if err != nil {
		return false, fmt.Errorf("cannot read the checkpoint %s (remove it to start without): %w", path, err)
	}
	return true, nil
}

// masterFile is the state of a master. It has no tasks: agents report them when they register again.
type masterFile struct {
	Frameworks []frameworkDocument `json:"frameworks"`
	Removed    []api.FrameworkID   `json:"removed"`
	Upkeep     upkeepFile          `json:"upkeep"`
	Agents     registryFile        `json:"agents"`
	Quotas     []quotaDocument     `json:"quotas,omitempty"`
	Weights    map[string]float64  `json:"weights,omitempty"`
	// In a real Mesos, the agents store reservations.
	Reservations map[api.AgentID][]conversionFile `json:"reservations,omitempty"`
}

// conversionFile is a conversion.
type conversionFile struct {
	From []resourceDocument `json:"from"`
	To   []resourceDocument `json:"to"`
}

func (c conversion) file() conversionFile {
	return conversionFile{From: c.from.documents(), To: c.to.documents()}
}

func (f conversionFile) conversion() conversion {
	return conversion{from: documentsPool(f.From), to: documentsPool(f.To)}
}

func (p pool) documents() []resourceDocument {
	var out []resourceDocument
	for _, r := range p.messages(withReservations) {
		out = append(out, resourceDocument{r})
	}
	return out
}

func documentsPool(documents []resourceDocument) pool {
	var out pool
	for _, d := range documents {
		out = out.plus(poolOf([]mesos.Resource{d.message}))
	}
	return out
}

// upkeepFile is what operators have planned.
type upkeepFile struct {
	Schedule    scheduleDocument                  `json:"schedule"`
	Down        []machineDocument                 `json:"down"`
	Deactivated []api.AgentID                     `json:"deactivated"`
	Draining    map[api.AgentID]drainInfoDocument `json:"draining"`
}

// agentFile has an agent's id, its port, which running executors know, and its drain configuration.
type agentFile struct {
	ID       string               `json:"id"`
	Port     int                  `json:"port"`
	Draining *drainConfigDocument `json:"draining,omitempty"`
}

// runFile is an executor's run.
type runFile struct {
	Framework frameworkDocument `json:"framework"`
	Executor  executorDocument  `json:"executor"`
	Command   bool              `json:"command"`
	Process   process           `json:"process"`
	Ended     bool              `json:"ended"`
	Killed    bool              `json:"killed"`
}

// taskFile is a task of a run.
type taskFile struct {
	Number  int              `json:"number"`
	Info    taskDocument     `json:"info"`
	Latest  statusDocument   `json:"latest"`
	Pending []statusDocument `json:"pending"`
}

// store keeps an agent's checkpoints below one directory.
type store struct{ dir string }

func (s store) agentPath() string              { return filepath.Join(s.dir, "agent.json") }
func (s store) runDir(container string) string { return filepath.Join(s.dir, "runs", container) }
func (s store) taskPath(container string, id api.TaskID) string {
	return filepath.Join(s.runDir(container), "tasks", url.PathEscape(string(id))+".json")
}

func (s store) saveRun(framework mesos.FrameworkInfo, run *executorRun) error {
	return writeFile(filepath.Join(s.runDir(run.container), "run.json"), runFile{
		Framework: frameworkDocument{framework}, Executor: executorDocument{run.info}, Command: run.command,
		Process: run.process, Ended: run.phase == ended, Killed: run.killed,
	})
}

func (s store) saveTask(container string, t *agentTask) error {
	id := api.TaskID(t.info.TaskID.Value)
	f := taskFile{Number: t.number, Info: taskDocument{t.info}, Latest: statusDocument{t.latest}}
	for _, p := range t.pending {
		f.Pending = append(f.Pending, statusDocument{p})
	}
	return writeFile(s.taskPath(container, id), f)
}

// load reads all runs. It removes runs without a run file, which never had a process.
func (s store) load() ([]savedRun, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, "runs"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []savedRun
	for _, entry := range entries {
		saved, found, err := s.loadRun(entry.Name())
		switch {
		case err != nil:
			return nil, err
		case found:
			out = append(out, saved)
		default:
			if err := os.RemoveAll(s.runDir(entry.Name())); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

func (s store) loadRun(container string) (savedRun, bool, error) {
	var f runFile
	found, err := readFile(filepath.Join(s.runDir(container), "run.json"), &f)
	if !found || err != nil {
		return savedRun{}, false, err
	}
	framework, info := f.Framework.message, f.Executor.message
	run := &executorRun{
		key:  executorKey{api.FrameworkID(framework.GetID().GetValue()), api.ExecutorID(info.ExecutorID.Value)},
		info: info, command: f.Command, container: container, process: f.Process, killed: f.Killed,
		tasks: map[api.TaskID]*agentTask{},
	}
	if f.Ended {
		run.phase = ended
	}
	if err := s.loadTasks(run); err != nil {
		return savedRun{}, false, err
	}
	return savedRun{framework: framework, run: run}, true, nil
}

func (s store) loadTasks(run *executorRun) error {
	paths, err := filepath.Glob(filepath.Join(s.runDir(run.container), "tasks", "*.json"))
	if err != nil {
		return err
	}
	for _, path := range paths {
		var f taskFile
		if _, err := readFile(path, &f); err != nil {
			return err
		}
		id := api.TaskID(f.Info.message.TaskID.Value)
		var pending []mesos.TaskStatus
		for _, p := range f.Pending {
			pending = append(pending, p.message)
		}
		run.tasks[id] = &agentTask{
			framework: run.key.framework, number: f.Number, info: f.Info.message, latest: f.Latest.message, pending: pending, retry: firstRetry,
		}
		run.order = append(run.order, id)
		run.launched = max(run.launched, f.Number)
	}
	slices.SortFunc(run.order, func(a, b api.TaskID) int { return run.tasks[a].number - run.tasks[b].number })
	return nil
}
