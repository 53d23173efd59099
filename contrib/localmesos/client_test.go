package localmesos

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

// object is a JSON object. The tests do not use the types of package wire to decode it.
type object = map[string]any

// oneCall uses a new connection per call. A kept connection breaks when the master or agent restarts, and net/http does not retry a
// POST.
var oneCall = &http.Transport{DisableKeepAlives: true}

// caller is the client of the tests.
var caller = &http.Client{Transport: oneCall}

// at walks into nested objects and returns nil where the path ends early.
func at(v any, path ...string) any {
	for _, key := range path {
		o, ok := v.(object)
		if !ok {
			return nil
		}
		v = o[key]
	}
	return v
}

func text(v any, path ...string) string {
	s, _ := at(v, path...).(string)
	return s
}

// testConfig is the default configuration with the resources and attributes of the recordings, on free ports. As in the recordings,
// nobody authenticates.
func testConfig(t *testing.T) Config {
	t.Helper()
	var c Config
	c.AddFlags(pflag.NewFlagSet("test", pflag.ContinueOnError))
	c.Port, c.Hostname, c.WorkDir, c.Authentication = 0, "laptop", t.TempDir(), Authentication{}
	c.Resources, c.Attributes = "cpus:4;mem:4096;disk:10000;ports:[31000-32000]", "rack:r1;weight:3"
	return c
}

func startCluster(t *testing.T, c Config) *Cluster {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cluster, err := Start(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Stop)
	return cluster
}

// subscription reads a stream of events.
type subscription struct {
	status int
	id     string
	body   string
	cancel context.CancelFunc

	mu     sync.Mutex // guards kept and ended
	kept   []object
	ended  bool
	change chan struct{} // gets a value after each change
}

var noEvent = object{"none": "no such event in time"}

func openStream(t *testing.T, url string, call object) *subscription {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := &subscription{cancel: cancel, change: make(chan struct{}, 1)}
	t.Cleanup(cancel)
	r := request(t, ctx, url, call)
	resp, err := caller.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	s.status, s.id = resp.StatusCode, resp.Header.Get("Mesos-Stream-Id")
	if s.status != http.StatusOK {
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		s.body = string(body)
		return s
	}
	go s.read(resp.Body)
	return s
}

func request(t *testing.T, ctx context.Context, url string, call object) *http.Request {
	t.Helper()
	body, err := json.Marshal(call)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json")
	return r
}

func (s *subscription) read(body io.ReadCloser) {
	defer body.Close()
	for in := bufio.NewReader(body); ; {
		e, err := readRecord(in)
		s.mu.Lock()
		if err != nil {
			s.ended = true
		} else {
			s.kept = append(s.kept, e)
		}
		s.mu.Unlock()
		select {
		case s.change <- struct{}{}:
		default:
		}
		if err != nil {
			return
		}
	}
}

func readRecord(in *bufio.Reader) (object, error) {
	line, err := in.ReadString('\n')
	if err != nil {
		return nil, err
	}
	size, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		return nil, err
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(in, data); err != nil {
		return nil, err
	}
	var e object
	return e, json.Unmarshal(data, &e)
}

// next removes and returns the first matching event, and waits for it. It keeps other events for later calls.
func (s *subscription) next(wait time.Duration, fits func(object) bool) object {
	deadline := time.After(wait)
	for {
		s.mu.Lock()
		i := slices.IndexFunc(s.kept, fits)
		if i >= 0 {
			e := s.kept[i]
			s.kept = slices.Delete(s.kept, i, i+1)
			s.mu.Unlock()
			return e
		}
		ended := s.ended
		s.mu.Unlock()
		if ended {
			return object{"none": "the stream was closed"}
		}
		select {
		case <-s.change:
		case <-deadline:
			return noEvent
		}
	}
}

func ofType(kinds ...string) func(object) bool {
	return func(e object) bool { return len(kinds) == 0 || slices.Contains(kinds, text(e, "type")) }
}

// testFramework is a scheduler in JSON.
type testFramework struct {
	t          *testing.T
	url        string
	id         string
	stream     *subscription
	subscribed object
}

const patience = 20 * time.Second

// subscribeWith opens a scheduler's stream; change may alter the SUBSCRIBE call.
func subscribeWith(t *testing.T, c *Cluster, change func(call, info object)) *testFramework {
	t.Helper()
	info := object{
		"user": "root", "name": "contract", "roles": []any{"*"}, "failover_timeout": 3600.0, "checkpoint": true,
		"capabilities": []any{object{"type": "MULTI_ROLE"}, object{"type": "PARTITION_AWARE"}},
	}
	call := object{"type": "SUBSCRIBE", "subscribe": object{"framework_info": info}}
	if change != nil {
		change(call, info)
	}
	f := &testFramework{t: t, url: masterURL(c) + "/api/v1/scheduler"}
	f.stream = openStream(t, f.url, call)
	f.subscribed = object{"status": f.stream.status, "body": f.stream.body}
	if f.stream.status == http.StatusOK {
		f.subscribed = f.stream.next(patience, ofType("SUBSCRIBED", "ERROR"))
	}
	f.id = text(f.subscribed, "subscribed", "framework_id", "value")
	return f
}

// masterURL is the URL of the master, with the credentials if it wants any.
func masterURL(c *Cluster) string {
	principal, file := c.Credential()
	if principal == "" {
		return "http://" + c.MasterAddr()
	}
	secret, _ := os.ReadFile(file) // without it the call will fail
	return "http://" + principal + ":" + strings.TrimSpace(string(secret)) + "@" + c.MasterAddr()
}

func subscribeAs(t *testing.T, c *Cluster, id string) *testFramework {
	t.Helper()
	return subscribeWith(t, c, func(call, info object) {
		info["id"], call["framework_id"] = named(id), named(id)
	})
}

func named(s string) object { return object{"value": s} }

// post sends a call to a URL and returns the answer in the format of the recordings.
func post(t *testing.T, url string, call object, change func(*http.Request)) object {
	t.Helper()
	r := request(t, context.Background(), url, call)
	if change != nil {
		change(r)
	}
	resp, err := caller.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	out := object{"status": resp.StatusCode}
	if len(body) > 0 {
		out["body"] = string(body)
		var tree any
		if json.Unmarshal(body, &tree) == nil {
			out["body"] = tree
		}
	}
	return out
}

func (f *testFramework) call(kind string, fields object) object {
	f.t.Helper()
	call := object{"type": kind, "framework_id": named(f.id)}
	for k, v := range fields {
		call[k] = v
	}
	return post(f.t, f.url, call, func(r *http.Request) { r.Header.Set("Mesos-Stream-Id", f.stream.id) })
}

// offer returns the next offer that was not rescinded, or nil.
func (f *testFramework) offer(wait time.Duration) object {
	f.t.Helper()
	for end := time.Now().Add(wait); time.Now().Before(end); {
		e := f.stream.next(time.Until(end), ofType("OFFERS"))
		offers, _ := at(e, "offers", "offers").([]any)
		if len(offers) == 0 {
			return nil
		}
		o, _ := offers[0].(object)
		rescinded := func(e object) bool { return text(e, "rescind", "offer_id", "value") == text(o, "id", "value") }
		if at(f.stream.next(0, rescinded), "none") != nil {
			return o
		}
	}
	return nil
}

func (f *testFramework) mustOffer() object {
	f.t.Helper()
	o := f.offer(patience)
	if o == nil {
		f.t.Fatal("no offer came")
	}
	return o
}

func (f *testFramework) update(task string, wait time.Duration) object {
	f.t.Helper()
	return f.stream.next(wait, func(e object) bool {
		return text(e, "type") == "UPDATE" && text(e, "update", "status", "task_id", "value") == task
	})
}

// mustUpdate takes and acknowledges updates of the task until one has the state.
func (f *testFramework) mustUpdate(task, state string) object {
	f.t.Helper()
	for {
		u := f.update(task, patience)
		if at(u, "none") != nil {
			f.t.Fatalf("no %s of task %s: %v", state, task, u)
		}
		f.ack(u)
		if text(u, "update", "status", "state") == state {
			return u
		}
		f.t.Logf("task %s: %v", task, at(u, "update", "status", "state"))
	}
}

func (f *testFramework) ack(u object) object {
	f.t.Helper()
	s, _ := at(u, "update", "status").(object)
	if s["uuid"] == nil {
		return object{"none": "no uuid"}
	}
	return f.call("ACKNOWLEDGE", object{"acknowledge": object{"agent_id": s["agent_id"], "task_id": s["task_id"], "uuid": s["uuid"]}})
}

func (f *testFramework) accept(o object, tasks ...object) object {
	f.t.Helper()
	return f.call("ACCEPT", object{"accept": object{
		"offer_ids": []any{o["id"]}, "filters": object{"refuse_seconds": 0.0},
		"operations": []any{object{"type": "LAUNCH", "launch": object{"task_infos": tasks}}},
	}})
}

func (f *testFramework) decline(o object, refuse float64) object {
	f.t.Helper()
	return f.call("DECLINE", object{"decline": object{"offer_ids": []any{o["id"]}, "filters": object{"refuse_seconds": refuse}}})
}

func scalarOf(name string, v float64) object {
	return object{"name": name, "type": "SCALAR", "scalar": object{"value": v}, "allocation_info": object{"role": "*"}}
}

// command makes a task with a command; change may alter it.
func commandTask(id string, o object, line string, change func(object)) object {
	task := object{
		"name": id, "task_id": named(id), "agent_id": o["agent_id"], "command": named(line),
		"resources": []any{scalarOf("cpus", 0.1), scalarOf("mem", 32)},
	}
	if change != nil {
		change(task)
	}
	return task
}

// executorTask makes a task for an executor.
func executorTask(id string, o, executor object) object {
	return commandTask(id, o, "", func(task object) {
		delete(task, "command")
		task["executor"] = executor
	})
}

// executorOf makes an ExecutorInfo.
func executorOf(f *testFramework, id, line string, variables ...object) object {
	return object{
		"type": "CUSTOM", "executor_id": named(id), "framework_id": named(f.id), "name": id, "source": "contract",
		"command":   object{"value": line, "environment": object{"variables": variables}},
		"resources": []any{scalarOf("cpus", 0.1), scalarOf("mem", 32)},
	}
}

func get(t *testing.T, url string) object {
	t.Helper()
	client := &http.Client{Transport: oneCall, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	out := object{"status": resp.StatusCode, "location": nil, "body": string(body)}
	if l := resp.Header.Get("Location"); l != "" {
		out["location"] = l
	}
	var tree any
	if json.Unmarshal(body, &tree) == nil {
		out["body"] = tree
	}
	return out
}

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.After(patience); !holds(); {
		select {
		case <-end:
			t.Fatal("in vain: " + what)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func unmarshal(t *testing.T, data []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(data, v); err != nil {
		t.Fatal(fmt.Errorf("%w in %s", err, data))
	}
}
