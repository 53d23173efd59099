package localmesos

import (
	"encoding/json"
	"net/http"
	"sync"
	"time"
)

// Path says between whom a message is under way.
type Path string

// The paths that Faults stand in.
const (
	SchedulerToMaster Path = "scheduler-to-master" // calls: SUBSCRIBE, ACCEPT, KILL, …
	MasterToScheduler Path = "master-to-scheduler" // events: SUBSCRIBED, OFFERS, UPDATE, …
	MasterToAgent     Path = "master-to-agent"     // RUN_TASK, KILL_TASK, ACKNOWLEDGE, SHUTDOWN_EXECUTOR, …
	AgentToMaster     Path = "agent-to-master"     // REGISTER, UPDATE, EXITED_EXECUTOR, MESSAGE
	ExecutorToAgent   Path = "executor-to-agent"   // calls: SUBSCRIBE, UPDATE, MESSAGE
	AgentToExecutor   Path = "agent-to-executor"   // events: SUBSCRIBED, LAUNCH, KILL, …
)

// Fault says what is to happen to messages. The zero value of a field means "any" or "not".
type Fault struct {
	// Path and Kind choose the messages, such as MasterToScheduler and "UPDATE"; empty chooses all.
	Path Path   `json:"path"`
	Kind string `json:"kind"`
	// Times is how many messages are touched before the fault is used up; 0 means all until Clear.
	Times int `json:"times"`
	// Drop loses the message. A call that is dropped is answered as if it had been taken.
	Drop bool `json:"drop"`
	// Duplicate delivers the message twice.
	Duplicate bool `json:"duplicate"`
	// Delay delivers the message later; messages after it on the same path may come before it.
	Delay time.Duration `json:"delay"`
}

// Faults stand in the path of every message of a cluster. The zero value harms none. Its methods may be called
// concurrently.
type Faults struct {
	mu    sync.Mutex // guards rules and hits
	rules []*Fault
	hits  int
}

// Add adds a fault; of several that fit a message the one added first acts.
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

// Hits returns how many messages were touched so far.
func (f *Faults) Hits() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.hits
}

// judge returns how often and how late a message is to be delivered.
func (f *Faults) judge(path Path, kind string) (times int, delay time.Duration) {
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
		switch {
		case rule.Drop:
			return 0, 0
		case rule.Duplicate:
			return 2, rule.Delay
		}
		return 1, rule.Delay
	}
	return 1, 0
}

// pass delivers a one-way message as the faults want it.
func (f *Faults) pass(path Path, kind string, deliver func()) {
	times, delay := f.judge(path, kind)
	for range times {
		if delay > 0 {
			time.AfterFunc(delay, deliver)
			continue
		}
		deliver()
	}
}

// ServeHTTP is the same over HTTP, at the master's /faults: POST a Fault as JSON to add it (delay in nanoseconds),
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
		f.Add(fault)
		w.WriteHeader(http.StatusAccepted)
	case http.MethodDelete:
		f.Clear()
		w.WriteHeader(http.StatusAccepted)
	default:
		http.Error(w, "POST a fault or DELETE all", http.StatusMethodNotAllowed)
	}
}
