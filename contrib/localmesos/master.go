package localmesos

import (
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"time"

	mesos "github.com/mesos/mesos-go/api/v1/lib"
	"github.com/mesos/mesos-go/api/v1/lib/scheduler"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/contrib/localmesos/wire"
)

const heartbeatInterval = 15 * time.Second

// master is the state machine of a Mesos master. step is its only entry; its owner calls it from one goroutine.
type master struct {
	info               mesos.MasterInfo
	allocationInterval time.Duration
	agentTimeout       time.Duration
	started            time.Time

	frameworks map[api.FrameworkID]*framework
	streams    map[string]*framework // of connected frameworks
	removed    map[api.FrameworkID]bool
	agents     map[api.AgentID]*agentEntry
	registry   registry
	offers     map[api.OfferID]*offer
	upkeep     upkeep
	// subscribers are the streams of subscribed operators, the oldest first.
	subscribers []string
	quotas      quotas
	weights     weights
	// reservations made by operators, in order.
	reservations map[api.AgentID][]conversion
	// oversubscribed has the revocable resources of each agent.
	oversubscribed pool

	allocating                             bool // the next batch allocation is planned
	offersMade, frameworksMade, agentsMade int

	counts                            metrics // since the start
	allocationRuns, allocationLatency timing
	clock                             func() time.Time // for the metrics only

	timers  timers
	now     time.Time
	actions []action
}

// framework is what the master knows of one framework.
type framework struct {
	id           api.FrameworkID
	info         mesos.FrameworkInfo
	stream       string // "" while not connected
	suppressed   map[string]bool
	filters      map[filterKey]filter
	tasks        map[api.TaskID]*task
	completed    []*task // the last few, for the operator API
	offers       map[api.OfferID]*offer
	recovered    bool // known from an agent or from disk only
	registered   time.Time
	reregistered time.Time
	unregistered time.Time
	counts       metrics // since the start, without the framework's prefix
	lastOffer    int     // offersMade at its last offer: the framework that waited longest comes first
}

// agentEntry is what the master knows of one agent.
type agentEntry struct {
	id          api.AgentID
	ip          string
	info        mesos.AgentInfo
	connected   bool
	unreachable bool
	left        time.Time // when it was last disconnected
	silent      time.Time // when it stopped answering pings
	registered  time.Time
	total, free pool
	executors   map[executorKey]*executorEntry
	tasks       map[taskKey]*task
	offers      map[api.OfferID]*offer
	allocating  bool // something became free since the last allocation
}

type executorEntry struct {
	info mesos.ExecutorInfo
	used pool
}

type taskKey struct {
	framework api.FrameworkID
	task      api.TaskID
}

// Events of the master.
type (
	// subscribe is a SUBSCRIBE call; events go to the stream. principal is the authenticated one, or "" if authentication is off.
	subscribe struct {
		stream    string
		call      *scheduler.Call
		principal string
	}
	// schedulerCall is any other call of the scheduler API.
	schedulerCall struct {
		stream    string
		call      *scheduler.Call
		principal string
	}
	// fromAgent is a message of an agent; an agent without an id has only an address.
	fromAgent struct {
		agent   api.AgentID
		address string
		message message
	}
	// agentGone: the connection to an agent broke.
	agentGone struct{ agent api.AgentID }
	// agentSilent: an agent has stopped answering pings.
	agentSilent struct{ agent api.AgentID }
)

// Actions of the master.
type (
	// sendAgent sends a message to an agent.
	sendAgent struct {
		agent   api.AgentID
		message message
	}
	// welcome accepts the registration from the address.
	welcome struct {
		address string
		agent   api.AgentID
	}
	// turnAway refuses the registration from the address.
	turnAway struct {
		address string
		message message
	}
	// saveFrameworks stores the current and removed frameworks, and the operators' settings.
	saveFrameworks struct{}
)

// Events from the master's own timers.
type (
	heartbeatDue   struct{ stream string }
	allocationDue  struct{ at time.Time }
	filterEnded    struct{ agent api.AgentID }
	failoverDue    struct{ framework api.FrameworkID }
	unreachableDue struct {
		agent api.AgentID
		left  time.Time
	}
	recoveryDue struct{}
	pingsLost   struct {
		agent api.AgentID
		since time.Time
	}
)

func newMaster(info mesos.MasterInfo, p plan, now time.Time) *master {
	return &master{
		info: info, allocationInterval: p.AllocationInterval, agentTimeout: p.AgentTimeout, started: now, now: now,
		frameworks: map[api.FrameworkID]*framework{}, streams: map[string]*framework{}, removed: map[api.FrameworkID]bool{},
		agents: map[api.AgentID]*agentEntry{}, registry: newRegistry(p.Executors != nil), offers: map[api.OfferID]*offer{}, upkeep: newUpkeep(),
		quotas: quotas{}, weights: weights{}, reservations: map[api.AgentID][]conversion{}, oversubscribed: p.oversubscribed,
		counts: newMasterCounts(), allocationRuns: timing{window: time.Hour}, allocationLatency: timing{window: time.Hour}, clock: time.Now,
	}
}

// restore restores stored frameworks. Their failover timeout starts now.
func (m *master) restore(known []mesos.FrameworkInfo, removed []api.FrameworkID) {
	for _, info := range known {
		m.addRecovered(info)
	}
	for _, id := range removed {
		m.removed[id] = true
	}
}

func (m *master) addRecovered(info mesos.FrameworkInfo) *framework {
	f := newFramework(api.FrameworkID(info.GetID().Value), info)
	f.recovered, f.registered, f.unregistered = true, m.now, m.now
	m.frameworks[f.id] = f
	m.timers.add(m.now.Add(f.failoverTimeout()), failoverDue{f.id})
	return f
}

func newFramework(id api.FrameworkID, info mesos.FrameworkInfo) *framework {
	return &framework{
		id: id, info: info, suppressed: map[string]bool{}, filters: map[filterKey]filter{},
		tasks: map[api.TaskID]*task{}, offers: map[api.OfferID]*offer{}, counts: newFrameworkCounts(),
	}
}

// wake returns when the master wants a tick; zero means never.
func (m *master) wake() time.Time { return m.timers.next() }

// step handles one event at the given time and returns the resulting actions. Values in the actions are immutable.
func (m *master) step(now time.Time, e event) []action {
	m.now, m.actions = now, nil
	for _, due := range m.timers.due(now) {
		m.handle(due)
	}
	m.handle(e)
	return m.actions
}

func (m *master) handle(e event) {
	switch e := e.(type) {
	case subscribe:
		m.subscribe(e)
	case schedulerCall:
		m.call(e)
	case invalidCall:
		m.countInvalid(e.kind)
	case operatorCall:
		m.do(m.change(e.call))
	case operatorSubscribe:
		m.subscribeOperator(e.stream)
	case operatorHeartbeatDue:
		m.operatorHeartbeat(e.stream)
	case streamClosed:
		if f := m.streams[e.stream]; f != nil {
			m.disconnect(f)
		}
		m.unsubscribeOperator(e.stream)
	case fromAgent:
		m.fromAgent(e)
	case agentGone:
		m.agentGone(e.agent)
	case recoveryDue:
		m.giveUpRecovered()
	case agentSilent:
		if a := m.agents[e.agent]; a != nil && a.connected {
			a.silent = m.now
			m.timers.add(m.now.Add(m.agentTimeout), pingsLost{e.agent, m.now})
		}
	case pingsLost:
		m.pingsLost(e)
	case heartbeatDue:
		if m.streams[e.stream] != nil {
			m.heartbeat(e.stream)
		}
	case allocationDue:
		m.beat(e.at)
	case filterEnded:
		if a := m.agents[e.agent]; a != nil {
			m.allocateSoon(a)
		}
	case failoverDue:
		m.failover(e.framework)
	case unreachableDue:
		if a := m.agents[e.agent]; a != nil && !a.connected && !a.unreachable && a.left.Equal(e.left) {
			m.markUnreachable(a)
		}
	}
}

func (m *master) do(a action) { m.actions = append(m.actions, a) }

// tell sends an event to the framework's scheduler if it is connected.
func (m *master) tell(f *framework, e *scheduler.Event) {
	if f.stream == "" {
		return
	}
	f.count("events", e.Type)
	switch e.Type {
	case scheduler.Event_OFFERS:
		f.counts["offers/sent"] += float64(len(e.Offers.Offers))
	case scheduler.Event_RESCIND:
		f.counts.add("offers/rescinded")
	}
	m.do(send{stream: f.stream, event: e, kind: e.Type.String()})
}

func (m *master) heartbeat(stream string) {
	m.streams[stream].count("events", scheduler.Event_HEARTBEAT)
	m.do(send{stream: stream, event: &scheduler.Event{Type: scheduler.Event_HEARTBEAT}, kind: scheduler.Event_HEARTBEAT.String()})
	m.timers.add(m.now.Add(heartbeatInterval), heartbeatDue{stream})
}

// subscribe follows https://mesos.apache.org/documentation/latest/scheduler-http-api/#subscribe-1.
func (m *master) subscribe(e subscribe) {
	info := *e.call.GetSubscribe().FrameworkInfo
	if e.principal != "" && info.Principal == nil {
		info.Principal = &e.principal
	}
	m.claim(e)
	m.count(either(info.GetID().GetValue() == "", "messages_register_framework", "messages_reregister_framework"))
	if problem := m.subscribeProblem(e.call, &info); problem != "" {
		m.do(answer{status: 200})
		m.sendError(e.stream, problem)
		return
	}
	f := m.frameworks[api.FrameworkID(info.GetID().GetValue())]
	tellOperators := m.publishFrameworkUpdated
	if f == nil {
		f, tellOperators = m.addFramework(info), m.publishFrameworkAdded
	} else {
		m.takeOver(f, info)
	}
	f.stream = e.stream
	f.count("calls", e.call.Type)
	f.setSuppressed(e.call.Subscribe.SuppressedRoles)
	m.streams[e.stream] = f
	m.do(saveFrameworks{})
	m.do(answer{status: 200})
	interval := heartbeatInterval.Seconds()
	masterInfo := m.info
	m.tell(f, &scheduler.Event{Type: scheduler.Event_SUBSCRIBED, Subscribed: &scheduler.Event_Subscribed{
		FrameworkID: &mesos.FrameworkID{Value: string(f.id)}, HeartbeatIntervalSeconds: &interval, MasterInfo: &masterInfo,
	}})
	m.heartbeat(f.stream)
	tellOperators(f)
	for _, a := range m.agents {
		if a.connected {
			m.do(sendAgent{a.id, updateFramework{f.info}})
		}
	}
	m.allocateAll()
}

// claim gives the caller's principal to a framework that subscribed before schedulers had to authenticate. A real Mesos refuses the
// subscription; here, a directory of an older km goes on.
func (m *master) claim(e subscribe) {
	f := m.frameworks[api.FrameworkID(e.call.GetFrameworkID().GetValue())]
	if f != nil && f.recovered && f.info.Principal == nil && e.principal != "" {
		f.info.Principal = &e.principal
	}
}

func (m *master) addFramework(info mesos.FrameworkInfo) *framework {
	if info.GetID().GetValue() == "" {
		info.ID = &mesos.FrameworkID{Value: fmt.Sprintf("%s-%04d", m.info.ID, m.frameworksMade)}
		m.frameworksMade++
	}
	f := newFramework(api.FrameworkID(info.ID.Value), info)
	f.registered, f.reregistered = m.now, m.now
	m.frameworks[f.id] = f
	m.do(note{"framework registered", map[string]any{"framework": string(f.id), "name": info.Name}})
	return f
}

// takeOver gives a known framework to a new scheduler instance, and sends an error to the previous one if it is still connected.
func (m *master) takeOver(f *framework, info mesos.FrameworkInfo) {
	if f.stream != "" {
		m.sendError(f.stream, "Framework failed over")
		delete(m.streams, f.stream)
	}
	m.withdrawOffers(f)
	f.info, f.recovered, f.reregistered = info, false, m.now
	clear(f.filters)
	m.do(note{"framework subscribed again", map[string]any{"framework": string(f.id), "name": info.Name}})
}

func (m *master) sendError(stream, text string) {
	if f := m.streams[stream]; f != nil {
		f.count("events", scheduler.Event_ERROR)
	}
	m.do(send{stream: stream, kind: scheduler.Event_ERROR.String(), event: &scheduler.Event{
		Type: scheduler.Event_ERROR, Error: &scheduler.Event_Error{Message: text},
	}})
	m.do(hangUp{stream})
}

// disconnect keeps the framework for its failover timeout.
func (m *master) disconnect(f *framework) {
	delete(m.streams, f.stream)
	f.stream, f.unregistered = "", m.now
	m.withdrawOffers(f)
	m.timers.add(m.now.Add(f.failoverTimeout()), failoverDue{f.id})
}

func (m *master) failover(id api.FrameworkID) {
	f := m.frameworks[id]
	if f != nil && f.stream == "" && !m.now.Before(f.unregistered.Add(f.failoverTimeout())) {
		m.do(note{"framework did not come back within its failover timeout", map[string]any{"framework": string(id)}})
		m.removeFramework(f)
	}
}

// failoverTimeout is FrameworkInfo.failover_timeout, which is in seconds and may be beyond what a Duration holds.
func (f *framework) failoverTimeout() time.Duration {
	const longest = 100 * 365 * 24 * time.Hour
	if seconds := f.info.GetFailoverTimeout(); seconds < longest.Seconds() {
		return time.Duration(seconds * float64(time.Second))
	}
	return longest
}

// removeFramework ends everything the framework runs. Its id can never subscribe again.
func (m *master) removeFramework(f *framework) {
	m.withdrawOffers(f)
	for _, a := range m.agents {
		m.removeFrom(a, f)
	}
	if f.stream != "" {
		m.do(hangUp{f.stream})
		delete(m.streams, f.stream)
	}
	delete(m.frameworks, f.id)
	m.removed[f.id] = true
	m.publishFrameworkRemoved(f)
	m.do(saveFrameworks{})
	m.do(note{"framework removed", map[string]any{"framework": string(f.id)}})
}

func (m *master) removeFrom(a *agentEntry, f *framework) {
	if a.connected {
		m.do(sendAgent{a.id, shutdownFramework{f.id}})
	}
	for key, t := range a.tasks {
		if key.framework == f.id {
			m.killRemoved(t)
			m.giveBack(a, t)
			delete(a.tasks, key)
		}
	}
	for key := range a.executors {
		if key.framework == f.id {
			m.dropExecutor(a, key)
		}
	}
	m.checkDrained(a)
}

// killRemoved marks a task of a removed framework as killed. Nobody is left to be told.
func (m *master) killRemoved(t *task) {
	s := masterStatus(mesos.TASK_KILLED, mesos.REASON_FRAMEWORK_REMOVED, "Framework "+string(t.framework.id)+" removed")
	s.TaskID, s.AgentID, s.Timestamp = t.info.TaskID, &mesos.AgentID{Value: string(t.agent.id)}, m.seconds()
	m.updateTask(t, s, s)
}

// roles returns the roles that the framework is subscribed to.
func (f *framework) roles() []string {
	if f.multiRole() {
		return f.info.Roles
	}
	role := f.info.GetRole()
	return []string{role}
}

func (f *framework) multiRole() bool {
	return hasCapability(f.info, mesos.FrameworkInfo_Capability_MULTI_ROLE)
}

func (f *framework) resourceForm() form {
	if hasCapability(f.info, mesos.FrameworkInfo_Capability_RESERVATION_REFINEMENT) {
		return withReservations
	}
	return withRole
}

// stateFor returns the state as the framework gets it: without PARTITION_AWARE, lost tasks are TASK_LOST.
func (f *framework) stateFor(s mesos.TaskState) mesos.TaskState { return stateFor(f.info, s) }

func stateFor(info mesos.FrameworkInfo, s mesos.TaskState) mesos.TaskState {
	if hasCapability(info, mesos.FrameworkInfo_Capability_PARTITION_AWARE) {
		return s
	}
	switch s {
	case mesos.TASK_DROPPED, mesos.TASK_UNREACHABLE, mesos.TASK_GONE, mesos.TASK_GONE_BY_OPERATOR, mesos.TASK_UNKNOWN:
		return mesos.TASK_LOST
	}
	return s
}

func (f *framework) setSuppressed(roles []string) {
	clear(f.suppressed)
	for _, role := range roles {
		f.suppressed[role] = true
	}
}

func hasCapability(info mesos.FrameworkInfo, c mesos.FrameworkInfo_Capability_Type) bool {
	return slices.ContainsFunc(info.Capabilities, func(x mesos.FrameworkInfo_Capability) bool { return x.Type == c })
}

// saved returns the frameworks and the ids of removed ones, to store.
func (m *master) saved() (known []mesos.FrameworkInfo, removed []api.FrameworkID) {
	for _, f := range m.frameworks {
		known = append(known, f.info)
	}
	for id := range m.removed {
		removed = append(removed, id)
	}
	slices.Sort(removed)
	slices.SortFunc(known, func(a, b mesos.FrameworkInfo) int {
		return boolToInt(a.GetID().GetValue() > b.GetID().GetValue())*2 - 1
	})
	return known, removed
}

// masterInfo describes a master at ip:port. MasterInfo.ip is the address in network byte order, read as a
// little-endian number, as in Mesos.
func masterInfo(id, hostname, ip string, port int) mesos.MasterInfo {
	port32 := uint32(port)
	pid := fmt.Sprintf("master@%s:%d", ip, port)
	version := mesosVersion
	return mesos.MasterInfo{
		ID: id, IP: networkOrder(ip), Port: &port32, PID: &pid, Hostname: &hostname, Version: &version,
		Address: &mesos.Address{Hostname: &hostname, IP: &ip, Port: int32(port)},
		Capabilities: []mesos.MasterInfo_Capability{
			{Type: mesos.MasterInfo_Capability_AGENT_UPDATE}, {Type: mesos.MasterInfo_Capability_AGENT_DRAINING},
			{Type: wire.MasterCapabilityQuotaV2},
		},
	}
}

func networkOrder(ip string) uint32 {
	four := net.ParseIP(ip).To4()
	if four == nil {
		return 0
	}
	return binary.LittleEndian.Uint32(four)
}

// mesosVersion is the emulated version of Mesos.
const mesosVersion = "1.12.0"
