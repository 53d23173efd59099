package scheduler

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/k8sm/k8sm/offers"
)

func TestHistoryTellsWhatBecameOfEachOffer(t *testing.T) {
	p := playOn(t, strings.Split(oneRunsOneWaits+`
offer o3 a2 host=two cpus=1 mem=512 port=2 ports=31000-31009
rescind o3
offer o4 a2 host=two cpus=1 mem=512 port=2 ports=31000-31009
lost a2
offer o5 a3 host=not_a_name cpus=1 mem=512 port=3
+10s
offer o6 a1 host=one cpus=0.5 mem=700 executor=ours ports=31000-31009
disconnected`, "\n")...)
	record := p.core.OfferRecord(p.now)
	h := record.History()
	times := cmpopts.IgnoreFields(EndedOffer{}, "Arrived", "Ended", "Resources")
	want := []EndedOffer{
		{ID: "o6", Agent: "a1", Hostname: "one", Role: "*", End: "disconnected"},
		{ID: "o2", Agent: "a1", Hostname: "one", Role: "*", End: "expired", Reason: "no waiting pod was placed in it", RefuseSeconds: 5},
		{ID: "o5", Agent: "a3", Hostname: "not_a_name", Role: "*", End: "declined", Reason: "the agent's hostname is no node name",
			RefuseSeconds: testConfig().RefuseIdle.Seconds()},
		{ID: "o4", Agent: "a2", Hostname: "two", Role: "*", End: "agent_gone"},
		{ID: "o3", Agent: "a2", Hostname: "two", Role: "*", End: "rescinded"},
		{ID: "o1", Agent: "a1", Hostname: "one", Role: "*", End: "launched", Tasks: 1, Pods: []string{"default/runs"}},
	}
	if diff := cmp.Diff(want, h.Offers, times); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if o := h.Offers[1]; o.Resources != "cpus:0.5;mem:700;ports:[31000-31009]" || o.Ended.Sub(o.Arrived) < testConfig().OfferTTL {
		t.Errorf("offer %+v", o)
	}
	totals := map[string]uint64{"agent_gone": 1, "declined": 1, "disconnected": 1, "expired": 1, "invalid": 0, "launched": 1, "rescinded": 1}
	if diff := cmp.Diff(totals, h.Totals); diff != "" {
		t.Errorf("totals -want +got:\n%s", diff)
	}
	sum := uint32(0)
	for _, m := range h.Minutes {
		for _, count := range m.Ends {
			sum += count
		}
	}
	if len(h.Minutes) != 60 || sum != 6 || h.Since == nil || h.LastOffer == nil || h.Held != 0 {
		t.Errorf("%d ends in %d minutes; since %v, last offer %v, %d held", sum, len(h.Minutes), h.Since, h.LastOffer, h.Held)
	}
}

func TestOfferThatMesosRefusedToLaunchInIsInvalid(t *testing.T) {
	for name, test := range map[string]struct{ update, want string }{
		"the offer was no longer valid": {"update web.1 a1 DROPPED reason=REASON_INVALID_OFFERS", "TASK_DROPPED REASON_INVALID_OFFERS"},
		"the task was invalid":          {"update web.1 a1 ERROR reason=REASON_TASK_INVALID", "TASK_ERROR REASON_TASK_INVALID"},
		"the task failed there":         {"update web.1 a1 FAILED reason=REASON_CONTAINER_LAUNCH_FAILED", ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := playOn(t, "synced", "subscribed", "offer o1 a1 host=one cpus=2 mem=1024 ports=31000-31009", "node one a1", "pod web cpus=1",
				"executor a1 ok", test.update)
			record := p.core.OfferRecord(p.now)
			h := record.History()
			invalid := uint64(0)
			if test.want != "" {
				invalid = 1
			}
			if len(h.Offers) != 1 || h.Offers[0].Refused != test.want || h.Offers[0].End != "launched" || h.Totals["invalid"] != invalid {
				t.Errorf("offers %+v, totals %v", h.Offers, h.Totals)
			}
		})
	}
}

func TestHistoryOfNothing(t *testing.T) {
	record := NewCore(testConfig()).OfferRecord(time.Now())
	h := record.History()
	if h.Since != nil || h.LastOffer != nil || h.Offers == nil || len(h.Totals) != len(offers.Ends())+1 {
		t.Errorf("%+v", h)
	}
}

func TestReasonsOfTheQueueAreGrouped(t *testing.T) {
	at := func(seconds int) time.Time { return time.Date(2026, 1, 1, 0, 0, seconds, 0, time.UTC) }
	pods := []WaitingPod{
		{Pod: "a/one", Since: at(5), Reasons: []string{"3 Insufficient cpu in offers (requested 4, most free 3.5)", "1 node(s) were unschedulable"}},
		{Pod: "a/two", Since: at(1), Attempts: 2, Reasons: []string{"7 Insufficient cpu in offers (requested 8, most free 3.5)"}},
		{Pod: "a/three", Since: at(2), Reasons: []string{"its tasks ended 3 times; the next is tried at 12:00:02"}},
		{Pod: "a/four", Since: at(2), Reasons: []string{"its tasks ended 4 times; the next is tried at 12:00:09"}},
		{Pod: "a/five", Since: at(3), Reasons: []string{"no Mesos master is connected"}},
	}
	want := QueueReasons{Pods: 5, Groups: []ReasonGroup{
		{Reason: "Insufficient cpu in offers", Pods: 2, Agents: 7, Oldest: at(1), Examples: []WaitingFor{
			{Pod: "a/one", Since: at(5), Agents: 3, Detail: "requested 4, most free 3.5"},
			{Pod: "a/two", Since: at(1), Attempts: 2, Agents: 7, Detail: "requested 8, most free 3.5"},
		}},
		{Reason: "its tasks ended several times; the next is tried later", Pods: 2, Oldest: at(2), Examples: []WaitingFor{
			{Pod: "a/three", Since: at(2), Detail: "its tasks ended 3 times; the next is tried at 12:00:02"},
			{Pod: "a/four", Since: at(2), Detail: "its tasks ended 4 times; the next is tried at 12:00:09"},
		}},
		{Reason: "no Mesos master is connected", Pods: 1, Oldest: at(3), Examples: []WaitingFor{{Pod: "a/five", Since: at(3)}}},
		{Reason: "node(s) were unschedulable", Pods: 1, Agents: 1, Oldest: at(5), Examples: []WaitingFor{{Pod: "a/one", Since: at(5), Agents: 1}}},
	}}
	if diff := cmp.Diff(want, GroupReasons(pods)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if empty := GroupReasons(nil); empty.Groups == nil {
		t.Error("no groups are null")
	}
}

func TestGroupNamesTheFirstPodsOnly(t *testing.T) {
	var pods []WaitingPod
	for i := range 50 {
		pods = append(pods, WaitingPod{Pod: fmt.Sprint("a/", i), Reasons: []string{"no Mesos agent has made an offer yet"}})
	}
	if got := GroupReasons(pods).Groups; len(got) != 1 || got[0].Pods != 50 || len(got[0].Examples) != maxExamples || got[0].Examples[0].Pod != "a/0" {
		t.Errorf("%+v", got)
	}
}
