package localmesos

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	mesos "github.com/mesos/mesos-go/api/v1/lib"
	pb "github.com/mesos/mesos-go/api/v1/lib/master"
	"github.com/mesos/mesos-go/api/v1/lib/quota"
)

func (s *script) limit(role string, force bool, limits map[string]float64) {
	config := quota.QuotaConfig{Role: role, Limits: map[string]mesos.Value_Scalar{}}
	for name, value := range limits {
		config.Limits[name] = mesos.Value_Scalar{Value: value}
	}
	s.step(operatorCall{&pb.Call{Type: pb.Call_UPDATE_QUOTA, UpdateQuota: &pb.Call_UpdateQuota{
		Force: &force, QuotaConfigs: []quota.QuotaConfig{config},
	}}})
}

func TestRoleIsNeverOfferedMoreThanItsLimit(t *testing.T) {
	s := newScript(t)
	s.framework("a", 0, "eng/web")
	s.limit("eng", false, map[string]float64{"cpus": 3, "mem": 600})
	s.agent(0, "cpus:2;mem:256;ports:[1-9];cpus(eng):1")
	s.agent(1, "cpus:2;mem:512")
	s.agent(2, "cpus:2;mem:512")
	_, got := s.take("a")
	// One of the three cpus is reserved for the parent role. The third agent has nothing left to offer.
	want := []string{
		"m-S0 ports(allocated: eng/web):[1-9]; cpus(allocated: eng/web):2; mem(allocated: eng/web):256; " +
			"cpus(reservations: [(STATIC,eng)])(allocated: eng/web):1",
		"m-S1 mem(allocated: eng/web):344",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	s.limit("eng", false, map[string]float64{"cpus": 4})
	s.pass(time.Second)
	if _, got = s.take("a"); len(got) != 2 || !strings.Contains(got[0], "cpus(allocated: eng/web):1;") {
		t.Errorf("with a higher limit: %v", got)
	}
}

func TestRevocableResourcesAndOtherRolesHaveNoQuota(t *testing.T) {
	s := newScript(t)
	s.m.oversubscribed, _ = parseOversubscribed("cpus:8")
	s.framework("a", 0, "x")
	s.m.frameworks["m-0000"].info.Capabilities = append(s.m.frameworks["m-0000"].info.Capabilities,
		mesos.FrameworkInfo_Capability{Type: mesos.FrameworkInfo_Capability_REVOCABLE_RESOURCES})
	s.framework("b", 0, "xy")
	s.limit("x", false, map[string]float64{"cpus": 0, "mem": 0})
	s.agent(0, "cpus:2;mem:256")
	_, a := s.take("a")
	_, b := s.take("b")
	if diff := cmp.Diff([]string{"m-S0 cpus(allocated: x){REV}:8"}, a); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"m-S0 cpus(allocated: xy):2; mem(allocated: xy):256"}, b); diff != "" {
		t.Error(diff)
	}
}

func TestTaskThatMixesRevocableResourcesWithItsExecutorIsRefused(t *testing.T) {
	t.Parallel()
	config := testConfig(t)
	config.Oversubscribed = "cpus:2"
	c := startCluster(t, config)
	f := subscribeWith(t, c, func(_, info object) {
		info["capabilities"] = append(info["capabilities"].([]any), object{"type": "REVOCABLE_RESOURCES"})
	})
	revocable := scalarOf("cpus", 1)
	revocable["revocable"] = object{}
	for _, test := range []struct {
		executor []any
		task     []any
		want     string
	}{
		{[]any{scalarOf("mem", 32)}, []any{revocable, scalarOf("cpus", 1)}, "Task mixes revocable and non-revocable resources"},
		{[]any{scalarOf("cpus", 0.1)}, []any{revocable, scalarOf("mem", 32)}, "Task and its executor mix revocable and non-revocable resources"},
	} {
		o := f.mustOffer()
		executor := executorOf(f, "x", "exit 1")
		executor["resources"] = test.executor
		task := executorTask("t", o, executor)
		task["resources"] = test.task
		f.accept(o, task)
		if u := f.mustUpdate("t", "TASK_ERROR"); !strings.Contains(text(u, "update", "status", "message"), test.want) {
			t.Errorf("%v; want %s", u, test.want)
		}
	}
}

func TestInvalidQuotaIsRefusedAsAWhole(t *testing.T) {
	s := newScript(t)
	s.framework("a", 0, "x")
	s.agent(0, "cpus:2;mem:256")
	for _, test := range []struct {
		role  string
		force bool
		cpus  float64
		want  string
	}{
		{"*", false, 1, "default '*' role"},
		{"a//b", false, 1, "empty component"},
		{"", false, 1, "QuotaConfig.role"},
		{"x", false, -1, "negative"},
		{"x", false, 1, "already consuming more cpus"},
		{"x", true, 1, ""},
	} {
		s.limit(test.role, test.force, map[string]float64{"cpus": test.cpus})
		if test.want == "" && s.last.status == http.StatusOK {
			continue
		}
		if s.last.status != http.StatusBadRequest || !strings.Contains(s.last.text, test.want) {
			t.Errorf("%+v: %+v", test, s.last)
		}
	}
	if len(s.m.quotas) != 1 {
		t.Errorf("quotas %v", s.m.quotas)
	}
	s.limit("x", false, nil)
	if len(s.m.quotas) != 0 {
		t.Errorf("after it was taken back: %v", s.m.quotas)
	}
}

func TestQuotaSurvivesRestart(t *testing.T) {
	t.Parallel()
	c := startCluster(t, testConfig(t))
	url := "http://" + c.MasterAddr() + "/api/v1"
	answer := post(t, url, object{"type": "UPDATE_QUOTA", "update_quota": object{"quota_configs": []any{object{
		"role": "dev", "guarantees": object{"cpus": object{"value": 1.0}}, "limits": object{"cpus": object{"value": 2.0}},
	}}}}, nil)
	if at(answer, "status") != http.StatusOK {
		t.Errorf("set: %v", answer)
	}
	c.KillMaster()
	if err := c.RestartMaster(); err != nil {
		t.Fatal(err)
	}
	want := []any{object{
		"role": "dev", "guarantees": object{"cpus": object{"value": 1.0}}, "limits": object{"cpus": object{"value": 2.0}},
	}}
	got := post(t, url, object{"type": "GET_QUOTA"}, nil)
	if diff := cmp.Diff(want, at(got, "body", "get_quota", "status", "configs")); diff != "" {
		t.Errorf("%v: %s", got, diff)
	}
}
