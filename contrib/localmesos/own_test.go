package localmesos

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestAgentsHaveTheirOwnConfiguration(t *testing.T) {
	t.Parallel()
	var entered [2]atomic.Int32
	c := testConfig(t)
	c.Resources = ""
	for i, ip := range []string{"127.0.0.2", "127.0.0.3"} {
		c.Own = append(c.Own, Agent{
			Hostname: "node-" + ip[8:], IP: ip, ExecutorEnvironmentVariables: `{"PATH":"/bin:/usr/bin","OWN":"` + ip + `"}`,
			Enter: func(do func() error) error { entered[i].Add(1); return do() },
		})
	}
	cluster := startCluster(t, c)
	f := subscribeWith(t, cluster, nil)
	seen := map[string]string{}
	offers, _ := at(f.stream.next(patience, ofType("OFFERS")), "offers", "offers").([]any)
	for _, offer := range offers {
		o, _ := offer.(object)
		ip, host := text(o, "url", "address", "ip"), text(o, "hostname")
		seen[ip] = host
		f.accept(o, commandTask("t-"+ip, o, `echo "$OWN $USER" >own; sleep 600`, nil))
		f.mustUpdate("t-"+ip, "TASK_RUNNING")
	}
	for i, own := range c.Own {
		if seen[own.IP] != own.Hostname {
			t.Errorf("the offers are of %v", seen)
		}
		if n := entered[i].Load(); n != 2 { // to listen, and to start the task
			t.Errorf("agent %d has entered its namespace %d times", i, n)
		}
		pattern := filepath.Join(c.WorkDir, "agents", own.Hostname, "slaves/*/frameworks/*/executors/*/runs/latest/own")
		for end := time.Now().Add(10 * time.Second); ; <-time.After(10 * time.Millisecond) {
			files, _ := filepath.Glob(pattern)
			if len(files) == 1 {
				if got, _ := os.ReadFile(files[0]); string(got) == own.IP+" \n" {
					break
				}
			}
			if time.Now().After(end) {
				t.Fatalf("the task of %s has written %v", own.Hostname, files)
			}
		}
	}
	whole, err := ownResources(c.WorkDir, 1)
	if err != nil {
		t.Fatal(err)
	}
	if half := cluster.plan.resources; half.scalar("mem")*2 > whole.scalar("mem") || half.scalar("cpus") != whole.scalar("cpus") {
		t.Errorf("of %v each of two agents has %v", whole, half)
	}
}

func TestCutAgentIsUnreachableUntilHealed(t *testing.T) {
	t.Parallel()
	c := testConfig(t)
	c.AgentTimeout = 100 * time.Millisecond
	cluster := startCluster(t, c)
	f := subscribeWith(t, cluster, nil)
	o := f.mustOffer()
	f.accept(o, commandTask("t", o, "sleep 600", nil))
	f.mustUpdate("t", "TASK_RUNNING")
	cluster.CutAgent(0)
	f.mustUpdate("t", "TASK_UNREACHABLE")
	cluster.HealAgent(0)
	f.mustUpdate("t", "TASK_RUNNING")
}

func TestMessagesToCutAgentArriveWhenHealed(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, testConfig(t))
	f := subscribeWith(t, cluster, nil)
	o := f.mustOffer()
	f.accept(o, commandTask("before", o, "sleep 600", nil))
	f.mustUpdate("before", "TASK_RUNNING")
	o = f.mustOffer()
	cluster.CutAgent(0)
	f.accept(o, commandTask("meanwhile", o, "sleep 600", nil))
	f.call("KILL", object{"kill": object{"task_id": named("before")}})
	if u := f.update("before", 300*time.Millisecond); at(u, "none") == nil {
		t.Errorf("a cable that was pulled carries %v", u)
	}
	cluster.HealAgent(0)
	f.mustUpdate("before", "TASK_KILLED")
	f.mustUpdate("meanwhile", "TASK_RUNNING")
}

func TestExecutorEnvironmentIsAJSONObject(t *testing.T) {
	c := testConfig(t)
	c.ExecutorEnvironmentVariables = `{"B":"2","A":"1"}`
	p, err := c.check()
	if err != nil || !slices.Equal(p.environment, []string{"A=1", "B=2"}) {
		t.Errorf("they have %v, %v", p.environment, err)
	}
	for says, change := range map[string]func(*Config){
		"--executor-environment-variables": func(c *Config) { c.ExecutorEnvironmentVariables = "PATH=/bin" },
		"hostname and IP address":          func(c *Config) { c.Own = []Agent{{Hostname: "x", IP: "y"}} },
	} {
		c := testConfig(t)
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("want %q, got %v", says, err)
		}
	}
}
