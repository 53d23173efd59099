package falcon_test

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus/hooks/test"

	"github.com/k8sm/k8sm/api/falcon"
	"github.com/k8sm/k8sm/api/falcon/falcontest"
)

// recorded returns what a real agent sent to a real transfer.
func recorded(t *testing.T) []string {
	t.Helper()
	data, err := os.ReadFile("testdata/agent-to-transfer.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(data)), "\n")
}

// call is a request of JSON-RPC 1.0.
type call struct {
	Method string             `json:"method"`
	Params [][]map[string]any `json:"params"`
	ID     int                `json:"id"`
}

func parse(t *testing.T, line string) call {
	t.Helper()
	var c call
	if err := json.Unmarshal([]byte(line), &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// ask sends lines to a transfer and returns its answers.
func ask(t *testing.T, target string, lines []string) (answers []string) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(target, "tcp://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	answer := bufio.NewScanner(conn)
	for _, line := range lines {
		if _, err := io.WriteString(conn, line+"\n"); err != nil || !answer.Scan() {
			t.Fatalf("no answer to %s: %v, %v", line, err, answer.Err())
		}
		answers = append(answers, answer.Text())
	}
	return answers
}

// The real transfer gave the answers below; an open connection gave them one after the other.
func TestTransferOfTheTestsAnswersAsTheRealOne(t *testing.T) {
	receiver := falcontest.New()
	_, tcp := receiver.Listen(t)
	one := `{"endpoint":"e","metric":"m","value":1,"step":60,"counterType":"GAUGE","tags":"","timestamp":1795938281}`
	got := ask(t, tcp, []string{
		`{"method":"Transfer.Update","params":[[` + one + `,null]],"id":7}`,
		`{"method":"Transfer.Ping","params":[{}],"id":8}`,
		`{"method":"Transfer.Nope","params":[{}],"id":9}`,
	})
	if diff := cmp.Diff([]string{
		`{"id":7,"result":{"Message":"ok","Total":2,"Invalid":1,"Latency":0},"error":null}`,
		`{"id":8,"result":{"code":0},"error":null}`,
		`{"id":9,"result":null,"error":"rpc: can't find method Transfer.Nope"}`,
	}, got); diff != "" {
		t.Error(diff)
	}
}

func TestAgentOfTheTestsAnswersAsTheRealOne(t *testing.T) {
	valid := `{"endpoint":"e","metric":"m","value":"1.5","step":60,"counterType":"GAUGE","tags":"","timestamp":1795938281}`
	mixed := "[" + valid + "," + strings.Join([]string{
		strings.Replace(valid, `"1.5"`, "true", 1), strings.Replace(valid, "60", "0", 1), strings.Replace(valid, "GAUGE", "gauge", 1),
	}, ",") + "]"
	receiver := falcontest.New()
	agent, _ := receiver.Listen(t)
	transfer := strings.Replace(agent, "/v1/push", "/api/push", 1)
	for _, c := range []struct {
		url, body string
		status    int
		answer    string
	}{
		{agent, mixed, http.StatusOK, "success"},
		{agent, "", http.StatusBadRequest, "body is blank"},
		{agent, "{", http.StatusBadRequest, "connot decode body"},
		{transfer, mixed, http.StatusOK, `{"msg":"success","data":{"Message":"ok","Total":4,"Invalid":3,"Latency":0}}`},
	} {
		response, err := http.Post(c.url, "application/json", strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		var got, want any
		if json.Unmarshal(body, &got) != nil || json.Unmarshal([]byte(c.answer), &want) != nil {
			got, want = strings.TrimSpace(string(body)), c.answer
		}
		if diff := cmp.Diff(want, got); diff != "" || response.StatusCode != c.status || err != nil {
			t.Errorf("%s of %q: status %d, %v\n%s", c.url, c.body, response.StatusCode, err, diff)
		}
	}
	if _, invalid, _ := receiver.Elements(); invalid != 6 {
		t.Errorf("counted %d invalid elements, want 6", invalid)
	}
}

func TestAllThatARealAgentSendsIsValid(t *testing.T) {
	receiver := falcontest.New()
	_, tcp := receiver.Listen(t)
	sent := 0
	for _, line := range recorded(t) {
		sent += len(parse(t, line).Params[0])
		ask(t, tcp, []string{line})
	}
	if valid, invalid, _ := receiver.Elements(); len(valid) != sent || invalid != 0 || sent == 0 {
		t.Errorf("of %d elements, %d are valid and %d invalid", sent, len(valid), invalid)
	}
}

// shapeOf returns the keys of a request's element and the kinds of their values.
func shapeOf(c call) map[string]reflect.Kind {
	shape := map[string]reflect.Kind{}
	for key, value := range c.Params[0][0] {
		shape[key] = reflect.TypeOf(value).Kind()
	}
	return shape
}

func TestPusherSendsWhatARealAgentSends(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	target, err := falcon.ParseTarget("tcp://" + l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	log, _ := test.NewNullLogger()
	pusher := falcon.New(falcon.Config{Target: target, Endpoint: "node-1", Step: time.Minute, Log: log})
	pusher.Push(time.Unix(1795938281, 0), []falcon.Element{falcon.Gauge("df.bytes.total", 270553174016, falcon.Tags("mount", "/", "fstype", "ext4"))})
	go func() { _ = pusher.Run(t.Context()) }()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	real, ours := parse(t, recorded(t)[0]), parse(t, line)
	if diff := cmp.Diff(shapeOf(real), shapeOf(ours)); diff != "" {
		t.Error(diff)
	}
	want := real.Params[0][0]
	want["step"] = 60.0
	if diff := cmp.Diff(want, ours.Params[0][0]); diff != "" || ours.Method != real.Method || len(ours.Params) != 1 {
		t.Errorf("%s\n%s", line, diff)
	}
}
