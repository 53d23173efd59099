package localmesos

import (
	"net/http"
	"net/url"
	"testing"
)

// TestOperatorEndsFrameworks: by the operator API, and by the endpoint of before. What Mesos answers is in src/tests/teardown_tests.cpp and
// Master::Http::_teardown.
func TestOperatorEndsFrameworks(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, testConfig(t))
	o := operatorOf(t, cluster)
	byCall := func(id string) object {
		return o.call("TEARDOWN", object{"teardown": object{"framework_id": object{"value": id}}})
	}
	byForm := func(id string) object {
		response, err := http.PostForm(o.root+"/master/teardown", url.Values{"frameworkId": {id}})
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		return object{"status": response.StatusCode}
	}
	for what, end := range map[string]func(string) object{"call": byCall, "form": byForm} {
		f := subscribeWith(t, cluster, nil)
		offer := f.mustOffer()
		f.accept(offer, commandTask("lasts", offer, "sleep 600", nil))
		f.mustUpdate("lasts", "TASK_RUNNING")
		processes := pidsIn(t, cluster.plan.WorkDir)
		if r := end("nobody"); r["status"] != http.StatusBadRequest {
			t.Errorf("by %s, a framework that is not there: %v", what, r)
		}
		if r := end(f.id); r["status"] != http.StatusOK {
			t.Errorf("by %s: %v", what, r)
		}
		eventually(t, "the task's process ends", func() bool { return len(processes) == 1 && !processes[0].alive() })
		if r := end(f.id); r["status"] != http.StatusBadRequest {
			t.Errorf("by %s, again: %v", what, r)
		}
	}
	if r := byCall("nobody"); r["body"] != "No framework found with specified ID\n" {
		t.Errorf("the master says %v", r)
	}
	if r := o.call("TEARDOWN", nil); r["body"] != "Failed to validate master::Call: Expecting 'teardown' to be present\n" {
		t.Errorf("the master says %v", r)
	}
}
