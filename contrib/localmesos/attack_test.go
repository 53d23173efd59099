package localmesos

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/pflag"
)

// safeConfig is testConfig with the authentication that a local Mesos has by default.
func safeConfig(t *testing.T) Config {
	t.Helper()
	c := testConfig(t)
	c.Authentication.addFlags(pflag.NewFlagSet("test", pflag.ContinueOnError))
	return c
}

func agentURL(c *Cluster) string { return "http://" + c.agents[0].address }

// TestStrangerCannotRunACommandAsRoot is what a local user, or a pod on the host network, can try at the master.
func TestStrangerCannotRunACommandAsRoot(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, safeConfig(t))
	marker := filepath.Join(t.TempDir(), "root-was-here")
	f := &testFramework{t: t, url: "http://" + cluster.MasterAddr() + "/api/v1/scheduler"}
	f.stream = openStream(t, f.url, object{"type": "SUBSCRIBE", "subscribe": object{"framework_info": object{"user": "root", "name": "stranger"}}})
	if f.stream.status == http.StatusOK {
		f.id = text(f.stream.next(patience, ofType("SUBSCRIBED")), "subscribed", "framework_id", "value")
		o := f.mustOffer()
		f.accept(o, commandTask("t", o, "touch "+marker, nil))
		f.mustUpdate("t", "TASK_FINISHED")
	}
	if _, err := os.Stat(marker); err == nil || f.stream.status != http.StatusUnauthorized {
		t.Errorf("a stranger gets %d, and its command has run: %t", f.stream.status, err == nil)
	}
}

// TestEndpointsAreOpenAsInMesos holds each endpoint to the realm that Master::initialize in src/master/master.cpp and
// Slave::initialize in src/slave/slave.cpp give it.
func TestEndpointsAreOpenAsInMesos(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, safeConfig(t))
	basic := func(r realm) string { return `Basic realm="` + string(r) + `"` }
	both := func(r realm) string { return basic(r) + `,Bearer realm="` + string(r) + `"` }
	cases := map[string]string{ // the challenge, by method and URL
		"POST m/api/v1/scheduler": basic(schedulerRealm), "POST m/api/v1": basic(masterReadwrite), "POST m/faults": basic(masterReadwrite),
		"GET m/maintenance/schedule": basic(masterReadwrite), "POST m/maintenance/schedule": basic(masterReadwrite),
		"POST m/machine/down": basic(masterReadwrite), "POST m/master/machine/up": basic(masterReadwrite),
		"GET m/maintenance/status": basic(masterReadonly), "POST a/api/v1/executor": both(executorRealm), "GET a/state": both(agentReadonly),
		"POST a/api/v1": both(agentReadwrite), "GET m/metrics/snapshot": basic(masterReadonly), "GET a/metrics/snapshot": both(agentReadonly),
		"GET m/health": "", "GET m/master/health": "", "GET m/version": "", "GET m/redirect": "", "GET a/health": "", "GET a/version": "",
	}
	for _, path := range []string{"/state", "/slaves", "/frameworks", "/tasks"} {
		cases["GET m"+path], cases["GET m/master"+path] = basic(masterReadonly), basic(masterReadonly)
	}
	client := &http.Client{Transport: oneCall, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for what, challenge := range cases {
		method, url, _ := strings.Cut(what, " ")
		url = strings.NewReplacer("m/", "http://"+cluster.MasterAddr()+"/", "a/", agentURL(cluster)+"/").Replace(url[:2]) + url[2:]
		for _, user := range []string{"", "k8sm"} { // the second one guesses
			r, err := http.NewRequestWithContext(t.Context(), method, url, nil)
			if err != nil {
				t.Fatal(err)
			}
			if user != "" {
				r.SetBasicAuth(user, "guess")
			}
			resp, err := client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if got := resp.Header.Get("WWW-Authenticate"); got != challenge || (challenge != "") != (resp.StatusCode == http.StatusUnauthorized) {
				t.Errorf("%s: %s %s, want %s", what, resp.Status, got, challenge)
			}
		}
	}
	if got := get(t, masterURL(cluster)+"/state"); got["status"] != http.StatusOK {
		t.Errorf("the principal gets %v", got)
	}
}

// forgedToken is a token for an executor, signed with another key.
func forgedToken(t *testing.T, framework, executor, container string) string {
	t.Helper()
	claims, err := json.Marshal(object{"fid": framework, "eid": executor, "cid": container})
	if err != nil {
		t.Fatal(err)
	}
	code := base64.RawURLEncoding.EncodeToString
	signed := code([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + code(claims)
	mac := hmac.New(sha256.New, []byte("guess"))
	mac.Write([]byte(signed))
	return signed + "." + code(mac.Sum(nil))
}

// TestExecutorCallsOnlyAsItself is what a pod on the host network, or another framework's executor, can try at an agent.
func TestExecutorCallsOnlyAsItself(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, safeConfig(t))
	f := subscribeWith(t, cluster, nil)
	tokens, containers := map[string]string{}, map[string]string{}
	for _, id := range []string{"x", "y"} {
		notes := filepath.Join(t.TempDir(), "notes")
		line, variables := asProgram(t, "executor", object{"name": "LOCALMESOS_TEST_NOTES", "value": notes})
		o := f.mustOffer()
		f.accept(o, executorTask("t"+id, o, executorOf(f, id, line, variables...)))
		containers[id] = text(f.mustUpdate("t"+id, "TASK_RUNNING"), "update", "status", "container_status", "container_id", "value")
		data, err := os.ReadFile(notes)
		if err != nil {
			t.Fatal(err)
		}
		var first object
		line, _, _ = strings.Cut(string(data), "\n")
		unmarshal(t, []byte(line), &first)
		tokens[id] = text(first, "env", "MESOS_EXECUTOR_AUTHENTICATION_TOKEN")
	}
	unsigned := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + strings.Split(tokens["x"], ".")[1] + "."
	for name, test := range map[string]struct {
		authorization string
		want          int
	}{
		"nobody":                    {"", http.StatusUnauthorized},
		"an unsigned token":         {"Bearer " + unsigned, http.StatusUnauthorized},
		"a token of another key":    {"Bearer " + forgedToken(t, f.id, "x", containers["x"]), http.StatusUnauthorized},
		"another executor's token":  {"Bearer " + tokens["y"], http.StatusForbidden},
		"an operator's credentials": {basicHeader(t, cluster), http.StatusForbidden},
	} {
		for kind, fields := range map[string]object{
			"SUBSCRIBE": {"subscribe": object{}}, "MESSAGE": {"message": object{"data": "eA=="}}, "UPDATE": {"update": object{"status": failed("tx")}},
		} {
			if status, body := callAgent(t, cluster, f.id, kind, fields, test.authorization); status != test.want {
				t.Errorf("%s of x by %s: %d %s, want %d", kind, name, status, body, test.want)
			}
		}
	}
	if u := f.update("tx", 0); at(u, "none") == nil {
		t.Errorf("a forged update reached the scheduler: %v", u)
	}
	if status, body := callAgent(t, cluster, f.id, "UPDATE", object{"update": object{"status": failed("tx")}}, "Bearer "+tokens["x"]); status != http.StatusAccepted {
		t.Errorf("x itself gets %d %s", status, body)
	}
	f.mustUpdate("tx", "TASK_FAILED")
}

func failed(task string) object {
	id := uuid.New()
	return object{"task_id": named(task), "state": "TASK_FAILED", "source": "SOURCE_EXECUTOR", "executor_id": named("x"), "uuid": id[:]}
}

func basicHeader(t *testing.T, c *Cluster) string {
	t.Helper()
	principal, file := c.Credential()
	secret, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(principal+":"+strings.TrimSpace(string(secret))))
}

// callAgent makes a call as executor x, and returns the status and the body of a refusal.
func callAgent(t *testing.T, c *Cluster, framework, kind string, fields object, authorization string) (int, string) {
	t.Helper()
	call := object{"type": kind, "framework_id": named(framework), "executor_id": named("x")}
	for k, v := range fields {
		call[k] = v
	}
	ctx, cancel := context.WithCancel(t.Context()) // a subscription must not last
	defer cancel()
	r := request(t, ctx, agentURL(c)+"/api/v1/executor", call)
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	resp, err := caller.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode < 300 {
		return resp.StatusCode, ""
	}
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body)
}

// TestWebPageCannotUseMaster also tries DNS rebinding, where a page's own name resolves to the master's address.
func TestWebPageCannotUseMaster(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, testConfig(t))
	_, port, _ := strings.Cut(cluster.MasterAddr(), ":")
	for _, server := range []string{"http://" + cluster.MasterAddr(), agentURL(cluster)} {
		for _, test := range []struct {
			host, origin string
			want         int
		}{
			{"evil.example", "", http.StatusForbidden}, {"evil.example:" + port, "http://evil.example:" + port, http.StatusForbidden},
			{"192.0.2.1", "", http.StatusForbidden}, {"", "http://evil.example", http.StatusForbidden}, {"", "null", http.StatusForbidden},
			{"", "http://localhost.evil.example", http.StatusForbidden}, {"", "", http.StatusOK}, {"localhost:" + port, "http://localhost:" + port, http.StatusOK},
			{"LAPTOP", "", http.StatusOK}, {"0.0.0.0:" + port, "", http.StatusOK}, {"[::1]:" + port, "", http.StatusOK},
		} {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server+"/health", nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Host = test.host
			if test.origin != "" {
				r.Header.Set("Origin", test.origin)
			}
			resp, err := caller.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != test.want {
				t.Errorf("Host %q, Origin %q: %s, want %d", test.host, test.origin, resp.Status, test.want)
			}
		}
	}
}

// TestSecretsAreForTheirOwnerOnly looks for them where others can read: in modes, command lines, the log and what Mesos shows.
func TestSecretsAreForTheirOwnerOnly(t *testing.T) {
	t.Parallel()
	c := safeConfig(t)
	cluster := startCluster(t, c)
	f := subscribeWith(t, cluster, nil)
	line, variables := asProgram(t, "executor", object{"name": "LOCALMESOS_TEST_NOTES", "value": filepath.Join(t.TempDir(), "notes")})
	o := f.mustOffer()
	f.accept(o, executorTask("t", o, executorOf(f, "x", line, variables...)))
	f.mustUpdate("t", "TASK_RUNNING")
	public := map[string]string{}
	for _, url := range []string{masterURL(cluster) + "/state", "http://" + cluster.MasterAddr() + "/version"} {
		body, err := json.Marshal(get(t, url))
		if err != nil {
			t.Fatal(err)
		}
		public[url] = string(body)
	}
	arguments, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range arguments {
		data, _ := os.ReadFile(path) // one that has ended has none
		public[path] = string(data)
	}
	for _, name := range []string{secretName, keyName} {
		path := filepath.Join(c.WorkDir, name)
		secret, err := os.ReadFile(path)
		info, statErr := os.Stat(path)
		if err != nil || statErr != nil || info.Mode().Perm() != 0o600 || len(bytes.TrimSpace(secret)) < 20 {
			t.Errorf("%s: %v, %v, %v, %d bytes", name, err, statErr, info, len(secret))
			continue
		}
		for where, content := range public {
			if strings.Contains(content, string(bytes.TrimSpace(secret))) {
				t.Errorf("%s is in %s", name, where)
			}
		}
	}
	if err := filepath.WalkDir(c.WorkDir, func(path string, entry os.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".json") {
			if info, err := entry.Info(); err != nil || info.Mode().Perm()&0o077 != 0 {
				t.Errorf("a checkpoint has mode %v, %v", info.Mode(), err)
			}
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}

// TestClusterOfAnOlderKMGoesOn has a directory from before there was authentication: its framework had no principal, its executor no
// token.
func TestClusterOfAnOlderKMGoesOn(t *testing.T) {
	t.Parallel()
	c := testConfig(t)
	c.ExecutorReregistrationTimeout = 300 * time.Millisecond
	older := startCluster(t, c)
	f := subscribeWith(t, older, nil)
	line, variables := asProgram(t, "executor", object{"name": "LOCALMESOS_TEST_NOTES", "value": filepath.Join(t.TempDir(), "notes")})
	o := f.mustOffer()
	f.accept(o, executorTask("t", o, executorOf(f, "x", line, variables...)))
	f.mustUpdate("t", "TASK_RUNNING")
	older.KillAgent(0)
	older.KillMaster()
	older.plan.Authentication = safeConfig(t).Authentication
	older.plan.auth.Authentication = older.plan.Authentication
	if err := older.plan.auth.complete(c.WorkDir); err != nil {
		t.Fatal(err)
	}
	if err := older.RestartAgent(0); err != nil {
		t.Fatal(err)
	}
	if err := older.RestartMaster(); err != nil {
		t.Fatal(err)
	}
	f = subscribeAs(t, older, f.id)
	if text(f.subscribed, "type") != "SUBSCRIBED" {
		t.Fatalf("its framework gets %v", f.subscribed)
	}
	f.mustUpdate("t", "TASK_FAILED")
	o = f.mustOffer()
	f.accept(o, executorTask("again", o, executorOf(f, "x", line, variables...)))
	f.mustUpdate("again", "TASK_RUNNING")
}
