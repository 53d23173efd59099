package mesos

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	mesos "github.com/mesos/mesos-go/api/v1/lib"
	mesossched "github.com/mesos/mesos-go/api/v1/lib/scheduler"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/offers"
	"github.com/k8sm/k8sm/scheduler"
	"github.com/k8sm/k8sm/scheduler/run"
)

func ptr[T any](v T) *T { return &v }

// reserved is a resource with all the bookkeeping that Mesos has for it.
func reserved(cpus float64) mesos.Resource {
	return mesos.Resource{
		Name: "cpus", Type: mesos.SCALAR.Enum(), Scalar: &mesos.Value_Scalar{Value: cpus}, Role: ptr("web"),
		AllocationInfo: &mesos.Resource_AllocationInfo{Role: ptr("web")},
		Reservation:    &mesos.Resource_ReservationInfo{Principal: ptr("ops")},
	}
}

func ports(begin, end uint64) mesos.Resource {
	return mesos.Resource{
		Name: "ports", Type: mesos.RANGES.Enum(), Role: ptr("*"),
		Ranges:         &mesos.Value_Ranges{Range: []mesos.Value_Range{{Begin: begin, End: end}}},
		AllocationInfo: &mesos.Resource_AllocationInfo{Role: ptr("web")},
	}
}

// anOffer has the shape that a real master was recorded to send.
func anOffer() mesos.Offer {
	revocable := reserved(8)
	revocable.Revocable = &mesos.Resource_RevocableInfo{}
	return mesos.Offer{
		ID: mesos.OfferID{Value: "o1"}, AgentID: mesos.AgentID{Value: "a1"}, Hostname: "host",
		AllocationInfo: &mesos.Resource_AllocationInfo{Role: ptr("web")},
		URL:            &mesos.URL{Scheme: "http", Address: mesos.Address{IP: ptr("10.0.0.1"), Port: 5051}},
		Domain: &mesos.DomainInfo{FaultDomain: &mesos.DomainInfo_FaultDomain{
			Region: mesos.DomainInfo_FaultDomain_RegionInfo{Name: "r"}, Zone: mesos.DomainInfo_FaultDomain_ZoneInfo{Name: "z"},
		}},
		Attributes: []mesos.Attribute{
			{Name: "rack", Type: mesos.TEXT, Text: &mesos.Value_Text{Value: "r1"}},
			{Name: "weight", Type: mesos.SCALAR, Scalar: &mesos.Value_Scalar{Value: 3}},
			{Name: "ids", Type: mesos.RANGES, Ranges: &mesos.Value_Ranges{Range: []mesos.Value_Range{{Begin: 1, End: 5}}}},
			{Name: "tags", Type: mesos.SET, Set: &mesos.Value_Set{Item: []string{"a", "b"}}},
		},
		Resources:   []mesos.Resource{reserved(4), revocable, ports(31000, 32000)},
		ExecutorIDs: []mesos.ExecutorID{{Value: "k8sm-minion.v1"}},
	}
}

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// fromNoon is an unavailability without an end if the length is 0.
func fromNoon(length time.Duration) mesos.Unavailability {
	u := mesos.Unavailability{Start: mesos.TimeInfo{Nanoseconds: noon.UnixNano()}}
	if length > 0 {
		u.Duration = &mesos.DurationInfo{Nanoseconds: length.Nanoseconds()}
	}
	return u
}

func TestOfferIsReadWholeButForWhatNoPodMayUse(t *testing.T) {
	o := anOffer()
	window := fromNoon(0)
	o.Unavailability = &window
	got, err := offerOf(&o)
	if err != nil {
		t.Fatal(err)
	}
	for i := range got.Resources {
		got.Resources[i].Origin = nil
	}
	want := offers.Offer{
		ID: "o1", Agent: "a1", Hostname: "host", IP: "10.0.0.1", Port: 5051, Role: "web", Region: "r", Zone: "z",
		Attributes: []offers.Attribute{{Name: "rack", Value: "r1"}, {Name: "weight", Value: "3"}, {Name: "ids", Value: "1-5"}, {Name: "tags", Value: "a.b"}},
		Resources: offers.Resources{
			{Name: "cpus", Role: "web", Reserved: true, Scalar: 4000},
			{Name: offers.RevocableCPUs, Role: "web", Reserved: true, Scalar: 8000},
			{Name: "ports", Role: "web", Ranges: []offers.Range{{Begin: 31000, End: 32000}}},
		},
		Executors: []api.ExecutorID{"k8sm-minion.v1"}, Unavailable: &offers.Unavailability{Start: noon},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestResourcesOfOneKindHaveEqualOrigins: what is offered later is compared by them with what an executor was given.
func TestResourcesOfOneKindHaveEqualOrigins(t *testing.T) {
	origin := func(r mesos.Resource) string {
		got, _, err := resourceOf(&r)
		if err != nil {
			t.Fatal(err)
		}
		return string(got.Origin)
	}
	other := reserved(4)
	other.Reservations = append(slices.Clone(other.Reservations), mesos.Resource_ReservationInfo{Type: mesos.Resource_ReservationInfo_DYNAMIC.Enum(), Role: ptr("web/a")})
	if origin(reserved(4)) != origin(reserved(0.5)) || origin(ports(1, 2)) != origin(ports(7, 9)) {
		t.Error("the amount is in the origin")
	}
	if origin(reserved(4)) == origin(other) {
		t.Error("the reservation is not in the origin")
	}
}

func TestGracePeriodOfATaskIsNeverBelowZero(t *testing.T) {
	for _, seconds := range []int64{math.MaxInt64, -1} {
		launch := launchOn(t)
		launch.Tasks[0].Pod.Spec.TerminationGracePeriodSeconds = &seconds
		call, err := callOf(launch)
		if err != nil {
			t.Fatal(err)
		}
		if got := call.GetAccept().Operations[0].GetLaunch().GetTaskInfos()[0].KillPolicy.GracePeriod.Nanoseconds; got < 0 {
			t.Errorf("%d seconds are %d ns", seconds, got)
		}
	}
}

// launchOn takes half a cpu and a port of anOffer.
func launchOn(t *testing.T) scheduler.Launch {
	o := anOffer()
	offer, err := offerOf(&o)
	if err != nil {
		t.Fatal(err)
	}
	taken, rest, _ := offer.Resources.Take(offers.CPUs, 500)
	port, _ := rest.DrawPort(31001)
	record, err := Codec{}.EncodeExecutor(run.Executor{Framework: "fw", ID: api.MinionExecutorID, Command: "exec km minion", Resources: taken})
	if err != nil {
		t.Fatal(err)
	}
	pod := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: "web", UID: "u", Labels: map[string]string{"app": "web"},
			ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubectl"}},
		},
		Spec: v1.PodSpec{
			TerminationGracePeriodSeconds: ptr(int64(7)),
			Containers:                    []v1.Container{{Name: "c", Ports: []v1.ContainerPort{{ContainerPort: 80, HostPort: 31001, Protocol: v1.ProtocolTCP}}}},
		},
	}
	return scheduler.Launch{
		Agent: "a1", Offers: []api.OfferID{"o1", "o2"}, Executor: record,
		Tasks: []scheduler.NewTask{{ID: "u.1", Pod: pod, Resources: append(taken, port)}, {ID: "v.1", Pod: pod, Resources: taken}},
	}
}

func TestLaunchTakesResourcesAsTheyWereOffered(t *testing.T) {
	call, err := callOf(launchOn(t))
	if err != nil {
		t.Fatal(err)
	}
	accept := call.GetAccept()
	if len(accept.OfferIDs) != 2 || len(accept.Operations) != 1 || accept.GetFilters().GetRefuseSeconds() != 0 {
		t.Errorf("got %v", accept)
	}
	tasks := accept.Operations[0].GetLaunch().GetTaskInfos()
	if len(tasks) != 2 {
		t.Fatalf("%d tasks in the ACCEPT", len(tasks))
	}
	want := []mesos.Resource{reserved(0.5), ports(31001, 31001)}
	if len(tasks[0].Resources) != 2 || !tasks[0].Resources[0].Equal(want[0]) || !tasks[0].Resources[1].Equal(want[1]) {
		t.Errorf("got %v, want %v", tasks[0].Resources, want)
	}
	if !tasks[0].Executor.Equal(tasks[1].Executor) || tasks[0].Executor.Command.GetValue() != "exec km minion" {
		t.Error("the executors differ")
	}
}

func TestTaskTellsOtherToolsAboutItsPod(t *testing.T) {
	call, err := callOf(launchOn(t))
	if err != nil {
		t.Fatal(err)
	}
	task := call.GetAccept().Operations[0].GetLaunch().GetTaskInfos()[0]
	if task.Name != "default/web" || task.TaskID.Value != "u.1" || task.AgentID.Value != "a1" {
		t.Errorf("got %s %s on %s", task.Name, task.TaskID.Value, task.AgentID.Value)
	}
	if got := time.Duration(task.KillPolicy.GracePeriod.Nanoseconds); got != 7*time.Second {
		t.Errorf("grace period %s", got)
	}
	if got := task.Labels.Labels; len(got) != 1 || got[0].Key != "app" || got[0].GetValue() != "web" {
		t.Errorf("labels %v", got)
	}
	port := task.Discovery.Ports.Ports[0]
	if task.Discovery.GetName() != "web.default" || port.Number != 31001 || port.GetName() != "c-80" || port.GetProtocol() != "tcp" {
		t.Errorf("discovery %v", task.Discovery)
	}
	var pod v1.Pod
	if err := json.Unmarshal(task.Data, &pod); err != nil || pod.Kind != "Pod" || pod.UID != "u" || pod.ManagedFields != nil {
		t.Errorf("data %s, %v", task.Data, err)
	}
}

func TestDiscoveryNamesThePortsOfTheNode(t *testing.T) {
	pod := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{Name: "c", Ports: []v1.ContainerPort{
		{ContainerPort: 80}, {ContainerPort: 80, Protocol: v1.ProtocolUDP}, {ContainerPort: 443, HostPort: 31443}, {ContainerPort: 22},
	}}}}}
	info := discoveryOf(scheduler.NewTask{Pod: pod, Ports: []api.PortMapping{
		{ContainerPort: 80, Protocol: "TCP", HostPort: 31001}, {ContainerPort: 80, Protocol: "UDP", HostPort: 31002},
	}})
	var numbers []uint32
	for _, p := range info.Ports.Ports {
		numbers = append(numbers, p.Number)
	}
	if diff := cmp.Diff([]uint32{31001, 31002, 31443, 22}, numbers); diff != "" {
		t.Error(diff)
	}
}

func TestRefinedReservationSurvivesFromOfferToLaunch(t *testing.T) {
	stack := mesos.Resource{
		Name: "cpus", Type: mesos.SCALAR.Enum(), Scalar: &mesos.Value_Scalar{Value: 4},
		AllocationInfo: &mesos.Resource_AllocationInfo{Role: ptr("eng/web")},
		Reservations: []mesos.Resource_ReservationInfo{
			{Type: mesos.Resource_ReservationInfo_STATIC.Enum(), Role: ptr("eng")},
			{
				Type: mesos.Resource_ReservationInfo_DYNAMIC.Enum(), Role: ptr("eng/web"), Principal: ptr("ops"),
				Labels: &mesos.Labels{Labels: []mesos.Label{{Key: "for", Value: ptr("web")}}},
			},
		},
	}
	r, usable, err := resourceOf(&stack)
	if err != nil || !usable || !r.Reserved || r.Role != "eng/web" {
		t.Fatalf("read as %+v, %v, %v", r, usable, err)
	}
	taken, _, _ := offers.Resources{r}.Take(offers.CPUs, 500)
	written, err := resourcesTo(taken)
	if err != nil {
		t.Fatal(err)
	}
	stack.Scalar.Value = 0.5
	if len(written) != 1 || !written[0].Equal(stack) {
		t.Errorf("got %v, want %v", written, stack)
	}
}

func TestDiskThatIsNotTheAgentsOwnIsNeverDrawnForAPlainPod(t *testing.T) {
	disk := func() mesos.Resource {
		return mesos.Resource{Name: "disk", Type: mesos.SCALAR.Enum(), Scalar: &mesos.Value_Scalar{Value: 1000}}
	}
	for name, change := range map[string]func(*mesos.Resource){
		"persistent volume": func(r *mesos.Resource) {
			r.Disk = &mesos.Resource_DiskInfo{Persistence: &mesos.Resource_DiskInfo_Persistence{ID: "v"}}
		},
		"mount": func(r *mesos.Resource) {
			r.Disk = &mesos.Resource_DiskInfo{Source: &mesos.Resource_DiskInfo_Source{Type: mesos.Resource_DiskInfo_Source_MOUNT}}
		},
		"block": func(r *mesos.Resource) {
			r.Disk = &mesos.Resource_DiskInfo{Source: &mesos.Resource_DiskInfo_Source{Type: mesos.Resource_DiskInfo_Source_BLOCK}}
		},
		"path": func(r *mesos.Resource) {
			r.Disk = &mesos.Resource_DiskInfo{Source: &mesos.Resource_DiskInfo_Source{Type: mesos.Resource_DiskInfo_Source_PATH}}
		},
		"shared":            func(r *mesos.Resource) { r.Shared = &mesos.Resource_SharedInfo{} },
		"resource provider": func(r *mesos.Resource) { r.ProviderID = &mesos.ResourceProviderID{Value: "p"} },
		"revocable":         func(r *mesos.Resource) { r.Revocable = &mesos.Resource_RevocableInfo{} },
	} {
		r := disk()
		change(&r)
		if _, usable, err := resourceOf(&r); usable || err != nil {
			t.Errorf("%s: usable %v, %v", name, usable, err)
		}
	}
	plain := disk()
	if _, usable, err := resourceOf(&plain); !usable || err != nil {
		t.Errorf("plain disk: usable %v, %v", usable, err)
	}
}

func TestExecutorRecordIsReadAsItWasWritten(t *testing.T) {
	launch := launchOn(t)
	executor, err := Codec{}.DecodeExecutor(launch.Executor)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Codec{}.EncodeExecutor(executor)
	if err != nil || string(again) != string(launch.Executor) {
		t.Errorf("written again it differs: %v", err)
	}
	executor.Archives = []string{"http://here:1/km/hash/km.tar.gz"}
	fetches, err := Codec{}.EncodeExecutor(executor)
	if err != nil {
		t.Fatal(err)
	}
	var info mesos.ExecutorInfo
	if err := info.Unmarshal(fetches); err != nil {
		t.Fatal(err)
	}
	uris := info.Command.URIs
	if len(uris) != 1 || uris[0].GetExecutable() || !uris[0].GetCache() || !uris[0].GetExtract() {
		t.Errorf("Mesos is asked to fetch %v", uris)
	}
	if same, err := (Codec{}).DecodeExecutor(fetches); err != nil || !cmp.Equal(executor.Archives, same.Archives) {
		t.Errorf("read as %v, %v", same.Archives, err)
	}
	if _, err := (Codec{}).DecodeExecutor([]byte("nonsense")); err == nil {
		t.Error("nonsense was read")
	}
}

func TestPeersAreWhoTheFlagNames(t *testing.T) {
	for flag, want := range map[string][]string{
		"10.0.0.1:5050,master.mesos": {"10.0.0.1:5050", "master.mesos:5050"},
		"https://master:443":         {"master:443"},
		"zk://u:p@a:1,b/mesos":       {"a:1", "b:2181"},
	} {
		cfg := Config{Masters: strings.Split(flag, ",")}
		if diff := cmp.Diff(want, cfg.Peers()); diff != "" {
			t.Errorf("%s: %s", flag, diff)
		}
	}
}

func TestEachCallSaysWhatItsActionSays(t *testing.T) {
	for _, test := range []struct {
		action scheduler.MesosAction
		want   mesossched.Call
	}{
		{
			scheduler.ShutdownExecutor{Agent: "a1", Executor: "minion"},
			mesossched.Call{Type: mesossched.Call_SHUTDOWN, Shutdown: &mesossched.Call_Shutdown{
				ExecutorID: mesos.ExecutorID{Value: "minion"}, AgentID: mesos.AgentID{Value: "a1"},
			}},
		},
		{
			scheduler.Decline{Offers: []api.OfferID{"o1"}, Refuse: 2 * time.Minute},
			mesossched.Call{Type: mesossched.Call_DECLINE, Decline: &mesossched.Call_Decline{
				OfferIDs: []mesos.OfferID{{Value: "o1"}}, Filters: &mesos.Filters{RefuseSeconds: ptr(120.0)},
			}},
		},
		{
			scheduler.AnswerInverse{Offer: "i1", Agent: "a1", Accept: true, Refuse: time.Minute},
			mesossched.Call{Type: mesossched.Call_ACCEPT_INVERSE_OFFERS, AcceptInverseOffers: &mesossched.Call_AcceptInverseOffers{
				InverseOfferIDs: []mesos.OfferID{{Value: "i1"}}, Filters: &mesos.Filters{RefuseSeconds: ptr(60.0)},
			}},
		},
		{
			scheduler.AnswerInverse{Offer: "i1", Agent: "a1", Refuse: time.Second},
			mesossched.Call{Type: mesossched.Call_DECLINE_INVERSE_OFFERS, DeclineInverseOffers: &mesossched.Call_DeclineInverseOffers{
				InverseOfferIDs: []mesos.OfferID{{Value: "i1"}}, Filters: &mesos.Filters{RefuseSeconds: ptr(1.0)},
			}},
		},
		{scheduler.Revive{}, mesossched.Call{Type: mesossched.Call_REVIVE}},
		{
			scheduler.Kill{Task: "u.1", Agent: "a1"},
			mesossched.Call{Type: mesossched.Call_KILL, Kill: &mesossched.Call_Kill{
				TaskID: mesos.TaskID{Value: "u.1"}, AgentID: &mesos.AgentID{Value: "a1"},
			}},
		},
		{
			scheduler.Acknowledge{Task: "u.1", Agent: "a1", UUID: []byte("x")},
			mesossched.Call{Type: mesossched.Call_ACKNOWLEDGE, Acknowledge: &mesossched.Call_Acknowledge{
				TaskID: mesos.TaskID{Value: "u.1"}, AgentID: mesos.AgentID{Value: "a1"}, UUID: []byte("x"),
			}},
		},
		{
			scheduler.Reconcile{Tasks: []scheduler.TaskRef{{Task: "u.1", Agent: "a1"}}},
			mesossched.Call{Type: mesossched.Call_RECONCILE, Reconcile: &mesossched.Call_Reconcile{
				Tasks: []mesossched.Call_Reconcile_Task{{TaskID: mesos.TaskID{Value: "u.1"}, AgentID: &mesos.AgentID{Value: "a1"}}},
			}},
		},
		{scheduler.Reconcile{}, mesossched.Call{Type: mesossched.Call_RECONCILE, Reconcile: &mesossched.Call_Reconcile{}}},
	} {
		got, err := callOf(test.action)
		if err != nil || !got.Equal(test.want) {
			t.Errorf("%s: got %v, %v", test.action, got, err)
		}
	}
}

// translation is an event of Mesos and what it is to the scheduler.
type translation struct {
	event mesossched.Event
	want  []scheduler.Event
}

func TestEventsOfMesosAreTranslatedOneToOne(t *testing.T) {
	translated(t, []translation{
		{
			mesossched.Event{Type: mesossched.Event_RESCIND, Rescind: &mesossched.Event_Rescind{OfferID: mesos.OfferID{Value: "o1"}}},
			[]scheduler.Event{scheduler.OfferRescinded{Offer: "o1"}},
		},
		{
			mesossched.Event{Type: mesossched.Event_INVERSE_OFFERS, InverseOffers: &mesossched.Event_InverseOffers{InverseOffers: []mesos.InverseOffer{
				{OfferID: mesos.OfferID{Value: "i1"}, AgentID: &mesos.AgentID{Value: "a1"}, Unavailability: fromNoon(time.Hour)},
				{OfferID: mesos.OfferID{Value: "i2"}, Unavailability: fromNoon(0)},
			}}},
			[]scheduler.Event{scheduler.InverseOffered{Offers: []scheduler.InverseOffer{
				{ID: "i1", Agent: "a1", Unavailable: offers.Unavailability{Start: noon, End: noon.Add(time.Hour)}},
				{ID: "i2", Unavailable: offers.Unavailability{Start: noon}},
			}}},
		},
		{
			mesossched.Event{Type: mesossched.Event_RESCIND_INVERSE_OFFER, RescindInverseOffer: &mesossched.Event_RescindInverseOffer{
				InverseOfferID: mesos.OfferID{Value: "i1"},
			}},
			[]scheduler.Event{scheduler.InverseOfferRescinded{Offer: "i1"}},
		},
		{
			mesossched.Event{Type: mesossched.Event_FAILURE, Failure: &mesossched.Event_Failure{AgentID: &mesos.AgentID{Value: "a1"}}},
			[]scheduler.Event{scheduler.AgentLost{Agent: "a1"}},
		},
		{
			mesossched.Event{Type: mesossched.Event_FAILURE, Failure: &mesossched.Event_Failure{
				AgentID: &mesos.AgentID{Value: "a1"}, ExecutorID: &mesos.ExecutorID{Value: "e"},
			}},
			[]scheduler.Event{scheduler.ExecutorExited{Agent: "a1", Executor: "e"}},
		},
		{mesossched.Event{Type: mesossched.Event_HEARTBEAT}, nil},
	})
}

func TestStatusesOfMesosAreTranslatedOneToOne(t *testing.T) {
	translated(t, []translation{
		{
			mesossched.Event{Type: mesossched.Event_UPDATE, Update: &mesossched.Event_Update{Status: mesos.TaskStatus{
				TaskID: mesos.TaskID{Value: "u.1"}, AgentID: &mesos.AgentID{Value: "a1"}, State: mesos.TASK_GONE_BY_OPERATOR.Enum(),
				Reason: mesos.REASON_RECONCILIATION.Enum(), Message: ptr("m"), UUID: []byte("x"),
			}}},
			[]scheduler.Event{scheduler.TaskUpdated{Status: scheduler.TaskStatus{
				Task: "u.1", Agent: "a1", State: scheduler.GoneByOperator, Reason: "REASON_RECONCILIATION", Message: "m", UUID: []byte("x"),
			}}},
		},
		{
			mesossched.Event{Type: mesossched.Event_UPDATE, Update: &mesossched.Event_Update{Status: mesos.TaskStatus{
				TaskID: mesos.TaskID{Value: "u.1"}, State: mesos.TASK_FAILED.Enum(), Source: mesos.SOURCE_EXECUTOR.Enum(),
				Reason: mesos.REASON_CONTAINER_LIMITATION_MEMORY.Enum(),
			}}},
			[]scheduler.Event{scheduler.TaskUpdated{Status: scheduler.TaskStatus{
				Task: "u.1", State: scheduler.Failed, Reason: "REASON_CONTAINER_LIMITATION_MEMORY", ByExecutor: true,
			}}},
		},
	})
}

func translated(t *testing.T, all []translation) {
	t.Helper()
	for _, test := range all {
		got, err := eventsOf(&test.event)
		if err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s: %s", test.event.GetType(), diff)
		}
	}
}

func TestEveryTaskStateOfMesosIsKnown(t *testing.T) {
	for number, name := range mesos.TaskState_name {
		if _, err := statusOf(&mesos.TaskStatus{State: mesos.TaskState(number).Enum()}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
