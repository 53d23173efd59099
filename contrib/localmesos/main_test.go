package localmesos

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

// TestMain makes the test binary act as the programs that the tests start: an executor, and a local Mesos to kill.
func TestMain(m *testing.M) {
	switch os.Getenv("LOCALMESOS_TEST_AS") {
	case "executor":
		os.Exit(runExecutor(os.Getenv("LOCALMESOS_TEST_NOTES")))
	case "mesos-go-executor":
		os.Exit(runMesosGoExecutor())
	case "cluster":
		os.Exit(runCluster(os.Getenv("LOCALMESOS_TEST_CONFIG")))
	}
	os.Exit(m.Run())
}

// asProgram returns the command and environment that make the test binary act as a program.
func asProgram(t *testing.T, program string, more ...object) (line string, variables []object) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return "exec " + self, append(more, object{"name": "LOCALMESOS_TEST_AS", "value": program})
}

// testExecutor answers LAUNCH with STARTING and RUNNING and KILL with KILLED, and notes all events.
type testExecutor struct {
	notes    *os.File
	endpoint string
	ids      object
	tasks    map[string]any
	updates  map[string]any
}

func runExecutor(notes string) int {
	f, err := os.OpenFile(notes, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 1
	}
	x := &testExecutor{
		notes: f, endpoint: "http://" + os.Getenv("MESOS_AGENT_ENDPOINT") + "/api/v1/executor", tasks: map[string]any{}, updates: map[string]any{},
		ids: object{"framework_id": named(os.Getenv("MESOS_FRAMEWORK_ID")), "executor_id": named(os.Getenv("MESOS_EXECUTOR_ID"))},
	}
	x.noteStart()
	if address := os.Getenv("LOCALMESOS_TEST_LISTEN"); address != "" {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return 1
		}
		defer l.Close()
	}
	for end := time.Now().Add(5 * time.Minute); time.Now().Before(end); {
		if ended := x.session(); ended || os.Getenv("MESOS_CHECKPOINT") != "1" {
			return 0
		}
		<-time.After(100 * time.Millisecond)
	}
	return 1
}

func (x *testExecutor) note(n object) {
	line, _ := json.Marshal(n)
	fmt.Fprintf(x.notes, "%s\n", line)
}

func (x *testExecutor) noteStart() {
	env := object{}
	for _, kv := range os.Environ() {
		if k, v, _ := strings.Cut(kv, "="); strings.HasPrefix(k, "MESOS_") {
			env[k] = v
		}
	}
	cwd, _ := os.Getwd()
	x.note(object{"env": env, "cwd": cwd})
}

func (x *testExecutor) post(kind string, fields object) (*http.Response, error) {
	call := object{"type": kind, "framework_id": x.ids["framework_id"], "executor_id": x.ids["executor_id"]}
	for k, v := range fields {
		call[k] = v
	}
	body, _ := json.Marshal(call)
	r, err := http.NewRequestWithContext(context.Background(), http.MethodPost, x.endpoint, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json")
	if token := os.Getenv("MESOS_EXECUTOR_AUTHENTICATION_TOKEN"); token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return caller.Do(r)
}

func (x *testExecutor) send(kind string, fields object) {
	resp, err := x.post(kind, fields)
	if err != nil {
		x.note(object{"error": err.Error()})
		return
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	x.note(object{"sent": kind, "status": resp.StatusCode, "body": string(body)})
}

// session subscribes and handles events until the stream ends; it returns true after SHUTDOWN.
func (x *testExecutor) session() bool {
	subscribe := object{"unacknowledged_tasks": values(x.tasks), "unacknowledged_updates": values(x.updates)}
	resp, err := x.post("SUBSCRIBE", object{"subscribe": subscribe})
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	x.note(object{"subscribe": resp.StatusCode, "headers": object{
		"Content-Type": resp.Header.Get("Content-Type"), "Transfer-Encoding": strings.Join(resp.TransferEncoding, ""),
	}})
	for in := bufio.NewReader(resp.Body); resp.StatusCode == http.StatusOK; {
		e, err := readRecord(in)
		if err != nil {
			return false
		}
		x.note(object{"event": e})
		if text(e, "type") == "SHUTDOWN" {
			return true
		}
		x.handle(e)
	}
	return false
}

func (x *testExecutor) handle(e object) {
	switch text(e, "type") {
	case "LAUNCH":
		id := at(e, "launch", "task", "task_id")
		x.tasks[text(id, "value")] = at(e, "launch", "task")
		x.update(id, "TASK_STARTING", "starting")
		x.update(id, "TASK_RUNNING", "running")
	case "ACKNOWLEDGED":
		delete(x.updates, text(e, "acknowledged", "uuid"))
		delete(x.tasks, text(e, "acknowledged", "task_id", "value"))
	case "KILL":
		x.update(at(e, "kill", "task_id"), "TASK_KILLED", "killed")
	case "MESSAGE":
		x.send("MESSAGE", object{"message": object{"data": at(e, "message", "data")}})
	}
}

func (x *testExecutor) update(id any, state, message string) {
	raw := uuid.New()
	key := base64.StdEncoding.EncodeToString(raw[:])
	status := object{
		"task_id": id, "state": state, "source": "SOURCE_EXECUTOR", "executor_id": x.ids["executor_id"], "uuid": key, "message": message,
		"timestamp": float64(time.Now().UnixNano()) / 1e9,
	}
	x.updates[key] = object{"status": status}
	x.send("UPDATE", object{"update": object{"status": status}})
}

func values(m map[string]any) []any {
	out := []any{}
	for _, v := range m {
		out = append(out, v)
	}
	return out
}

// runCluster runs a local Mesos as a separate process, to kill it.
func runCluster(config string) int {
	var c Config
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		fmt.Println(err)
		return 1
	}
	cluster, err := Start(context.Background(), c)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("up " + cluster.MasterAddr())
	select {}
}
