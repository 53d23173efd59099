package api_test

import (
	"testing"

	v1 "k8s.io/api/core/v1"

	"github.com/k8sm/k8sm/api"
)

func TestNodeIsReadyIfItsConditionSaysSo(t *testing.T) {
	pressure := v1.NodeCondition{Type: v1.NodeMemoryPressure, Status: v1.ConditionTrue}
	for status, want := range map[v1.ConditionStatus]bool{v1.ConditionTrue: true, v1.ConditionFalse: false, v1.ConditionUnknown: false} {
		ready := v1.NodeCondition{Type: v1.NodeReady, Status: status, Reason: "KubeletReady"}
		node := &v1.Node{Status: v1.NodeStatus{Conditions: []v1.NodeCondition{pressure, ready}}}
		if got := api.NodeReady(node); got != want || api.ReadyCondition(node) != ready {
			t.Errorf("%s: %v, %+v", status, got, api.ReadyCondition(node))
		}
	}
	node := &v1.Node{Status: v1.NodeStatus{Conditions: []v1.NodeCondition{pressure}}}
	if api.NodeReady(node) || api.ReadyCondition(node) != (v1.NodeCondition{}) {
		t.Error("a node without the condition is ready")
	}
}
