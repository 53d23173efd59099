package mesos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	mesosmaster "github.com/mesos/mesos-go/api/v1/lib/master"

	mesos "github.com/mesos/mesos-go/api/v1/lib"

	"github.com/k8sm/k8sm/api"
)

// Framework is a framework of the Mesos cluster, ours or another.
type Framework struct {
	ID   api.FrameworkID `json:"id"`
	Name string          `json:"name"`
	// Principal is that which it has registered with; "" for none.
	Principal string `json:"principal,omitempty"`
	// Connected says that a scheduler of it is connected to the master.
	Connected bool `json:"connected"`
	// Tasks are its tasks that have not ended, as far as the master knows.
	Tasks int `json:"tasks"`
	// Registered is when it registered first.
	Registered time.Time `json:"registered"`
}

// Frameworks asks the leading master for the frameworks. A scheduler need not be subscribed.
func (m *Master) Frameworks(ctx context.Context) (list []Framework, err error) {
	err = m.onLeader(ctx, func(ctx context.Context, endpoint string) error {
		known, err := m.ask(ctx, endpoint, mesosmaster.Call_GET_FRAMEWORKS)
		if err != nil {
			return err
		}
		running, err := m.ask(ctx, endpoint, mesosmaster.Call_GET_TASKS)
		if err != nil {
			return err
		}
		tasks := map[string]int{}
		for _, t := range running.GetGetTasks().GetTasks() {
			tasks[t.FrameworkID.Value]++
		}
		list = nil
		for _, f := range known.GetGetFrameworks().GetFrameworks() {
			id := f.FrameworkInfo.GetID().GetValue()
			list = append(list, Framework{
				ID: api.FrameworkID(id), Name: f.FrameworkInfo.Name, Principal: f.FrameworkInfo.GetPrincipal(), Connected: f.Connected,
				Tasks: tasks[id], Registered: timeOf(f.RegisteredTime),
			})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("cannot list the frameworks of Mesos: %w", err)
	}
	return list, nil
}

func timeOf(t *mesos.TimeInfo) time.Time { return time.Unix(0, t.GetNanoseconds()).UTC() }

// ErrConnected says that a framework has a scheduler.
var ErrConnected = errors.New("a scheduler of it is connected: stop that first, with all its followers")

// Teardown ends a framework that has no scheduler, with all its tasks and executors
// (https://mesos.apache.org/documentation/latest/operator-http-api/#teardown). The error is ErrConnected if it has one.
func (m *Master) Teardown(ctx context.Context, id api.FrameworkID) (ended Framework, err error) {
	all, err := m.Frameworks(ctx)
	if err != nil {
		return ended, err
	}
	for _, f := range all {
		if f.ID == id {
			ended = f
		}
	}
	switch {
	case ended.ID == "":
		return ended, fmt.Errorf("cannot end framework %s: the Mesos master does not know it, or hides it from this --mesos-principal", id)
	case ended.Connected:
		return ended, fmt.Errorf("cannot end framework %s: %w", id, ErrConnected)
	}
	err = m.onLeader(ctx, func(ctx context.Context, endpoint string) error {
		response, err := m.operate(ctx, endpoint, &mesosmaster.Call{
			Type: mesosmaster.Call_TEARDOWN, Teardown: &mesosmaster.Call_Teardown{FrameworkID: mesos.FrameworkID{Value: string(id)}},
		})
		if err != nil {
			return err
		}
		return response.Body.Close()
	})
	if err != nil {
		return ended, fmt.Errorf("cannot end framework %s: %w", id, err)
	}
	return ended, nil
}

// ask asks a master a question of the operator API.
func (m *Master) ask(ctx context.Context, endpoint string, call mesosmaster.Call_Type) (*mesosmaster.Response, error) {
	response, err := m.operate(ctx, endpoint, &mesosmaster.Call{Type: call})
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, answerLimit))
	if err != nil {
		return nil, fmt.Errorf("cannot read the answer to %s: %w", call, err)
	}
	var answer mesosmaster.Response
	if err := answer.Unmarshal(body); err != nil {
		return nil, fmt.Errorf("cannot read the answer to %s: %w", call, err)
	}
	return &answer, nil
}

// answerLimit bounds an answer that is read whole: 50,000 tasks need a tenth of it.
const answerLimit = 512 << 20

// onLeader calls do with the scheduler API's URL of the leading master, which it finds by asking the ones that are known.
func (m *Master) onLeader(ctx context.Context, do func(ctx context.Context, endpoint string) error) error {
	ctx, cancel := context.WithTimeout(ctx, m.cfg.ConnectTimeout)
	defer cancel()
	masters, err := m.find(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, endpoint := range masters {
		err := do(ctx, endpoint)
		var elsewhere redirected
		if errors.As(err, &elsewhere) {
			c := &connection{master: m, endpoint: endpoint, known: masters}
			var leader string
			if leader, err = c.target(ctx, elsewhere.location); err == nil {
				err = do(ctx, leader)
			}
		}
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", strings.TrimSuffix(endpoint, schedulerPath), err))
	}
	return errors.Join(errs...)
}

// find returns the masters' URLs.
func (m *Master) find(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithCancel(ctx)
	found, done := newCandidates(), make(chan struct{})
	go func() { defer close(done); m.detector.Detect(ctx, found.tell) }()
	defer func() { cancel(); <-done }()
	for {
		_, changed, why := found.pick(0)
		if all := found.all(); len(all) > 0 {
			return all, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("cannot find a Mesos master: %w", why)
		}
	}
}

// redirected is the answer of a master that does not lead.
type redirected struct {
	error
	location string
}
