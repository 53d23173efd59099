package v1beta1

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
)

func TestFieldSelectors(t *testing.T) {
	for _, c := range []struct{ kind, selector, want string }{
		{"Pod", "", ""},
		{"Pod", "name=Web", "metadata.name=web"},
		{"Pod", "DesiredState.Host=127.0.0.1", "spec.nodeName=127.0.0.1"},
		{"Pod", "DesiredState.Host=", "spec.nodeName="},
		{"Pod", "DesiredState.Host!=", "spec.nodeName!="},
		{"Pod", "name==a,DesiredState.Host!=b", "spec.nodeName!=b,metadata.name=a"},
		{"Pod", "DesiredState.Status=Waiting", "status.phase=Pending"},
		{"Pod", "DesiredState.Status!=Running", "status.phase!=Running"},
		{"Pod", "DesiredState.Status=Terminated", "status.phase!=Pending,status.phase!=Running"},
		{"Pod", "DesiredState.Status!=Terminated", "status.phase!=Succeeded,status.phase!=Failed,status.phase!=Unknown"},
		{"Minion", "name=m", "metadata.name=m"},
		{"ReplicationController", "name!=c", "metadata.name!=c"},
		{"Event", "involvedObject.name=x,reason=y", "involvedObject.name=x,reason=y"},
	} {
		got, err := FieldSelector(resourceOf(t, c.kind), c.selector)
		if err != nil || got != c.want {
			t.Errorf("%s of %s becomes %s, %v", c.selector, c.kind, got, err)
		}
	}
}

func TestFieldsThatCannotBeSelectedByAreRefused(t *testing.T) {
	for _, c := range []struct{ kind, selector, message string }{
		{"Pod", "labels=x", "pods cannot be selected by 'labels': use name, DesiredState.Host, DesiredState.Status"},
		{"Pod", "status.phase=Running", "cannot be selected by 'status.phase'"},
		{"Service", "DesiredState.Host=x", "services cannot be selected by 'DesiredState.Host': use name"},
		{"Pod", "name", `fields=name: invalid selector: 'name'; can't understand 'name'`},
		{"Pod", `name=\x`, "invalid field selector"},
	} {
		_, err := FieldSelector(resourceOf(t, c.kind), c.selector)
		if s := status(t, err); s.Code != 400 || !strings.Contains(s.Message, c.message) {
			t.Errorf("%s of %s: %d, %q", c.selector, c.kind, s.Code, s.Message)
		}
	}
}

// The statuses of pods that a selector selects are those that are shown.
func TestSelectedStatusesAreThoseShown(t *testing.T) {
	for _, p := range []v1.PodPhase{v1.PodPending, v1.PodRunning, v1.PodSucceeded, v1.PodFailed, v1.PodUnknown} {
		for _, s := range []string{Waiting, Running, Terminated} {
			for _, operator := range []string{"=", "!="} {
				selector, err := FieldSelector(resourceOf(t, "Pod"), "DesiredState.Status"+operator+s)
				if err != nil {
					t.Fatal(err)
				}
				selected := fields.ParseSelectorOrDie(selector).Matches(fields.Set{"status.phase": string(p)})
				if shown := podStatus(p) == s; selected != (shown == (operator == "=")) {
					t.Errorf("%s%s selects phase %s: %t", operator, s, p, selected)
				}
			}
		}
	}
}
