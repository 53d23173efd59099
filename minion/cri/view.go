package cri

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/client"
	"golang.org/x/sync/errgroup"

	"github.com/k8sm/k8sm/api"
)

// parallelCalls bounds concurrent calls to the Engine.
const parallelCalls = 8

// view caches the Engine's answers about our containers. Whatever may have changed, because the Engine sent an event or we called
// it, is queried again when needed; the rest is answered from memory. While the view receives no events, it caches nothing.
//
// What it returns is shared: do not modify it.
type view struct {
	docker *client.Client
	owner  owner

	mu      sync.Mutex // guards the fields below
	heard   bool       // the Engine's events arrive
	members map[string]*member
	hidden  map[string]int // how many want a sandbox of this name to be in no list
}

// member is one of our containers.
type member struct {
	kind, sandbox string // its labels: they never change
	name          string // of a sandbox
	changes       int    // counts possible changes
	known         bool   // answer is newer than the last change
	answer        container.InspectResponse
}

func newView(docker *client.Client, owner owner) *view {
	return &view{docker: docker, owner: owner, members: map[string]*member{}, hidden: map[string]int{}}
}

// lose drops everything: the Engine's events do not arrive.
func (v *view) lose() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.heard, v.members = false, map[string]*member{}
}

// take sets the existing containers. The Engine's events must have arrived since before they were listed.
func (v *view) take(list []container.Summary) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, c := range list {
		v.mark(c.ID, c.Labels)
	}
	v.heard = true
}

// changed records what was done to one of our containers, which has these labels and may be new.
func (v *view) changed(id string, labels map[string]string, by events.Action) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if m := v.members[id]; m == nil || !m.tells(by) {
		v.mark(id, labels)
	}
}

// touched records that a container may have changed.
func (v *view) touched(id string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if m := v.members[id]; m != nil {
		v.mark(id, nil)
	}
}

// started records that the Engine has done what it was asked for: to start a container.
func (v *view) started(id string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if m := v.members[id]; m != nil && !m.tells(events.ActionStart) {
		v.mark(id, nil)
	}
}

// tells reports whether the answer that is known was given after this was done. To ask again would be in vain. And while the Engine
// starts a container, it answers nothing about it.
func (m *member) tells(done events.Action) bool {
	switch done {
	case events.ActionCreate:
		return m.known
	case events.ActionStart:
		return m.known && m.answer.State.Running
	}
	return false
}

// hide leaves a sandbox out of all lists until show is called. Until it runs, nobody can use it, and a list that has it would wait for
// the Engine to start it.
func (v *view) hide(name string) (show func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.hidden[name]++
	return func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		if v.hidden[name]--; v.hidden[name] == 0 {
			delete(v.hidden, name)
		}
	}
}

// mark needs mu.
func (v *view) mark(id string, labels map[string]string) {
	m := v.members[id]
	if m == nil {
		m = &member{kind: labels[labelKind], sandbox: labels[labelSandbox], name: nameOf(labels)}
		v.members[id] = m
	}
	m.changes++
	m.known, m.answer = false, container.InspectResponse{}
}

// nameOf returns the name of the sandbox with these labels; "" for what is none.
func nameOf(labels map[string]string) string {
	if labels[labelKind] != kindSandbox {
		return ""
	}
	record, err := readSandbox(labels)
	if err != nil {
		return "" // whoever uses it says so
	}
	return sandboxName(record.Metadata)
}

// gone records that a container was removed.
func (v *view) gone(id string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.members, id)
}

// inspect returns one of our containers, or a NotFound error. It accepts whole ids, and whatever else the Engine accepts.
func (v *view) inspect(ctx context.Context, kind, id string) (container.InspectResponse, error) {
	if c, _, known := v.recall(id); known {
		return v.check(c, kind, id)
	}
	return v.inspectNow(ctx, kind, id)
}

// inspectNow does the same but always asks the Engine, to prove that it answers.
func (v *view) inspectNow(ctx context.Context, kind, id string) (container.InspectResponse, error) {
	if id == "" {
		return container.InspectResponse{}, notFound(kind, `""`)
	}
	_, changes, _ := v.recall(id)
	c, err := v.docker.ContainerInspect(ctx, id)
	if isNotFound(err) {
		v.gone(id)
		return c, notFound(kind, id)
	}
	if err != nil {
		return c, err
	}
	v.learn(c, changes)
	return v.check(c, kind, id)
}

// check rejects a container of another kind or owner.
func (v *view) check(c container.InspectResponse, kind, id string) (container.InspectResponse, error) {
	if !v.owner.owns(c.Config.Labels) || c.Config.Labels[labelKind] != kind {
		return container.InspectResponse{}, notFound(kind, id)
	}
	return c, nil
}

// recall returns what is known of a container, and its count of changes.
func (v *view) recall(id string) (c container.InspectResponse, changes int, known bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	m := v.members[id]
	if m == nil {
		return c, 0, false
	}
	return m.answer, m.changes, v.heard && m.known
}

// learn caches the Engine's answer, unless the container may have changed since.
func (v *view) learn(c container.InspectResponse, changes int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if m := v.members[c.ID]; m != nil && v.heard && m.changes == changes {
		m.answer, m.known = c, true
	}
}

// list returns our containers of a kind, newest first: all, those whose id begins with id, those of one sandbox. It leaves out
// containers that are removed meanwhile.
func (v *view) list(ctx context.Context, kind, id, sandbox string) ([]container.InspectResponse, error) {
	ids, err := v.ids(ctx, kind, id, sandbox)
	if err != nil {
		return nil, err
	}
	found := make([]container.InspectResponse, len(ids))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallelCalls)
	for i, id := range ids {
		if c, _, known := v.recall(id); known {
			found[i] = c
			continue
		}
		group.Go(func() (err error) {
			if found[i], err = v.inspectNow(ctx, kind, id); isNotFound(err) {
				return nil
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	found = slices.DeleteFunc(found, func(c container.InspectResponse) bool { return c.ContainerJSONBase == nil })
	slices.SortFunc(found, func(a, b container.InspectResponse) int {
		return cmp.Or(-cmp.Compare(nanoseconds(a.Created), nanoseconds(b.Created)), cmp.Compare(a.ID, b.ID))
	})
	return found, nil
}

// ids returns the ids of what list returns, in no order. Some of them may be gone.
func (v *view) ids(ctx context.Context, kind, id, sandbox string) ([]string, error) {
	if ids, heard := v.find(kind, id, sandbox); heard {
		return ids, nil
	}
	return v.ask(ctx, kind, id, sandbox)
}

// find returns the ids from memory, if the Engine's events arrive.
func (v *view) find(kind, id, sandbox string) (ids []string, heard bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for have, m := range v.members {
		if m.kind == kind && strings.HasPrefix(have, id) && (sandbox == "" || m.sandbox == sandbox) && v.hidden[m.name] == 0 {
			ids = append(ids, have)
		}
	}
	return ids, v.heard
}

// ask returns the ids from the Engine, also for kinds that are never inspected.
func (v *view) ask(ctx context.Context, kind, id, sandbox string) (ids []string, err error) {
	args := v.owner.filters()
	args.Add("label", labelKind+"="+kind)
	if id != "" {
		args.Add("id", id)
	}
	if sandbox != "" {
		args.Add("label", labelSandbox+"="+sandbox)
	}
	list, err := v.docker.ContainerList(ctx, container.ListOptions{All: true, Filters: args})
	if err != nil {
		return nil, fmt.Errorf("cannot list the node's containers: %w", err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, c := range list {
		if v.hidden[nameOf(c.Labels)] == 0 {
			ids = append(ids, c.ID)
		}
	}
	return ids, nil
}

// filters select the owner's containers.
func (o owner) filters() filters.Args {
	return filters.NewArgs(
		filters.Arg("label", api.DockerLabelFramework+"="+o.cluster), filters.Arg("label", api.DockerLabelNode+"="+o.node))
}
