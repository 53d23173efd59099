package localmesos

import (
	"encoding/json"
	"net/http"
	"sync"
	"time"
)

// Path is a direction of messages.
type Path string

// Paths of messages.
const (
	SchedulerToMaster Path = "scheduler-to-master" // calls: SUBSCRIBE, ACCEPT, KILL, …
	MasterToScheduler Path = "master-to-scheduler" // events: SUBSCRIBED, OFFERS, UPDATE, …
	MasterToAgent     Path = "master-to-agent"     // RUN_TASK, KILL_TASK, ACKNOWLEDGE, SHUTDOWN_EXECUTOR, …
	AgentToMaster     Path = "agent-to-master"     // REGISTER, UPDATE, EXITED_EXECUTOR, MESSAGE
	ExecutorToAgent   Path = "executor-to-agent"   // calls: SUBSCRIBE, UPDATE, MESSAGE
	AgentToExecutor   Path = "agent-to-executor"   // events: SUBSCRIBED, LAUNCH, KILL, …
)

// Fault is what happens to matching messages. The zero value of a field means "any" or "not".
type Fault struct {
	// Path and Kind choose the messages, such as MasterToScheduler and "UPDATE"; empty chooses all.
	Path Path   `json:"path"`
	Kind string `json:"kind"`
	// Times is how many messages the fault affects; 0 means all until Clear.
	Times int `json:"times"`
	// Drop loses the message. A dropped call is answered as if it had been accepted.
	Drop bool `json:"drop"`
	// Duplicate delivers the message twice.
	Duplicate bool `json:"duplicate"`
	// Delay delivers the message later; later messages on the same path may overtake it.
	Delay time.Duration `json:"delay"`
	// Status answers a call with this HTTP status instead of accepting it. A recovering master or agent answers every call with 503
	// (src/master/http.cpp and src/slave/http.cpp). It has no effect on paths without answers.
	Status int `json:"status"`
	// Silent accepts a call but never answers it, until the caller gives up. With Drop, the call is lost too.
	Silent bool `json:"silent"`
}

// verdict is what happens to a message.
type verdict struct {
	times  int // number of deliveries
	delay  time.Duration
	status int
	silent bool
}

// Faults applies faults to the messages of a cluster. The zero value has none. Its methods may be called concurrently.
type Faults struct {
	mu    sync.Mutex // guards rules and hits
	rules []*Fault
	hits  int
}

// Add adds a fault. If several match a message, the first one added applies.
func (f *Faults) Add(fault Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = append(f.rules, &fault)
}

// Clear removes all faults.
func (f *Faults) Clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = nil
}

// Hits returns how many messages were affected so far.
func (f *Faults) Hits() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.hits
}

// judge returns what happens to a message.
func (f *Faults) judge(path Path, kind string) verdict {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, rule := range f.rules {
		if rule.Path != "" && rule.Path != path || rule.Kind != "" && rule.Kind != kind {
			continue
		}
		f.hits++
		if rule.Times == 1 {
			f.rules = append(f.rules[:i:i], f.rules[i+1:]...)
		} else if rule.Times > 1 {
			rule.Times--
		}
		v := verdict{times: 1, delay: rule.Delay, status: rule.Status, silent: rule.Silent}
		switch {
		case rule.Drop || rule.Status != 0:
			v.times = 0
		case rule.Duplicate:
			v.times = 2
		}
		return v
	}
	return verdict{times: 1}
}

// pass delivers a one-way message, subject to the faults.
func (f *Faults) pass(path Path, kind string, deliver func()) {
	v := f.judge(path, kind)
	for range v.times {
		if v.delay > 0 {
			time.AfterFunc(v.delay, deliver)
			continue
		}
		deliver()
	}
}

// ServeHTTP serves Add and Clear at the master's /faults: POST a Fault as JSON to add it (delay in nanoseconds),
// DELETE to clear all.
func (f *Faults) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodPost:
		var fault Fault
		in := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16))
		in.DisallowUnknownFields()
		if err := in.Decode(&fault); err != nil {
			http.Error(w, "cannot read the fault: "+err.Error(), http.StatusBadRequest)
			return
		}
		if fault.Status != 0 && (fault.Status < 400 || fault.Status > 599) {
			http.Error(w, "status is that of a call that fails: give one from 400 to 599, such as 503", http.StatusBadRequest)
			return
		}
		f.Add(fault)
		w.WriteHeader(http.StatusAccepted)
	case http.MethodDelete:
		f.Clear()
		w.WriteHeader(http.StatusAccepted)
	default:
		http.Error(w, "POST a fault or DELETE all", http.StatusMethodNotAllowed)
	}
}
