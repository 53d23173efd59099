package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	dockerimage "github.com/docker/docker/api/types/image"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// redisImage is what the examples' redis is: a web server, on redis' port, under its name. An image with a tag is not pulled if it is
// there.
const (
	redisImage       = "dockerfile/redis:latest"
	taggedRedisImage = "dockerfile/redis:2.8"
)

// The API of 2014 on one cluster: recorded exchanges, upstream's examples of then, and a pod that comes back.
func TestV1Beta1(t *testing.T) {
	dir := stateDir(t)
	leavesNothing(t, func(t *testing.T) {
		address := fmt.Sprintf("127.0.0.1:%d", freePort(t))
		c := up(t, dir, "--v1beta1-address="+address, "--v1beta1-insecure",
			"--resources=cpus:2;mem:2048;disk:10000;ports:[6379-6380,8000-8000,8080-8080,31000-31100]")
		makeRedisImage(t, c)
		old := v1beta1Client{Cluster: c, url: "http://" + address, node: onlyNode(t, c).Name}
		t.Run("what was recorded is answered as then", func(t *testing.T) { replays(t, old) })
		t.Run("the examples of then", func(t *testing.T) { oldExamples(t, old) })
		t.Run("the first steps of then", func(t *testing.T) {
			t.Run("a pod, its controller and its service", func(t *testing.T) { t.Parallel(); oldStory(t, old) })
			t.Run("a controller that is run by one line", func(t *testing.T) { t.Parallel(); oldRun(t, old) })
			t.Run("a proxy for pages of this machine", func(t *testing.T) { t.Parallel(); oldProxy(t, old) })
		})
	})
}

// makeRedisImage makes the image of the tests' busybox.
func makeRedisImage(t *testing.T, c *scratch.Cluster) {
	t.Helper()
	ctx := within(t, time.Minute)
	made, err := c.Docker.ContainerCreate(ctx, &container.Config{Image: image}, nil, nil, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Docker.ContainerCommit(ctx, made.ID, container.CommitOptions{Reference: redisImage, Config: &container.Config{
		Entrypoint: []string{"/bin/busybox", "sh", "-c", "trap 'exit 0' TERM; httpd -f -p 6379 -h /bin & wait"},
	}})
	if err == nil {
		err = errors.Join(c.Docker.ContainerRemove(ctx, made.ID, container.RemoveOptions{}), c.Docker.ImageTag(ctx, redisImage, taggedRedisImage))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, name := range []string{redisImage, taggedRedisImage} {
			if _, err := c.Docker.ImageRemove(context.Background(), name, dockerimage.RemoveOptions{Force: true}); err != nil {
				t.Error(err)
			}
		}
	})
}

// client2014 runs km kubecfg in a namespace.
type client2014 struct {
	t         *testing.T
	c         *scratch.Cluster
	node      string
	namespace string
	home      string
}

func newClient2014(t *testing.T, c v1beta1Client, namespace string) client2014 {
	t.Helper()
	if _, err := c.Kube.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return client2014{t: t, c: c.Cluster, node: c.node, namespace: namespace, home: t.TempDir()}
}

func (k client2014) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := k.c.KM(ctx, append([]string{"kubecfg", "-ns", k.namespace}, args...)...)
	cmd.Env = append(os.Environ(), "HOME="+k.home)
	return cmd
}

// try runs a command and returns what it prints.
func (k client2014) try(ctx context.Context, args ...string) (string, error) {
	out, err := k.command(ctx, args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("kubecfg %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), err
}

// run is try for what must succeed.
func (k client2014) run(args ...string) string {
	k.t.Helper()
	out, err := k.try(within(k.t, time.Minute), args...)
	if err != nil {
		k.t.Fatal(err)
	}
	return out
}

// until repeats a command until a line that it prints matches.
func (k client2014) until(line string, args ...string) string {
	k.t.Helper()
	pattern := regexp.MustCompile("(?m)" + line)
	var out string
	err := scratch.Until(k.t.Context(), time.Minute, func(ctx context.Context) (err error) {
		if out, err = k.try(ctx, args...); err == nil && !pattern.MatchString(out) {
			err = fmt.Errorf("kubecfg %s prints no line %s:\n%s", strings.Join(args, " "), line, out)
		}
		return err
	})
	if err != nil {
		k.t.Fatal(err)
	}
	return out
}

// rows are the first cells of a table.
func rows(table string) (ids []string) {
	for _, line := range strings.Split(table, "\n")[2:] {
		if id, _, _ := strings.Cut(line, " "); id != "" {
			ids = append(ids, id)
		}
	}
	return ids
}

// podStates is a template that says, of each pod, whether it has a host, and what its containers wait for.
const podStates = `{{range .items}}{{.id}} {{if .desiredState.host}}placed{{end}} {{range .currentState.info}}{{with .state.waiting}}{{.reason}}{{end}}{{with .state.running}}runs{{end}} {{end}}
{{end}}`

// waitsForItsImage matches a pod in podStates that nothing but its image holds up.
const waitsForItsImage = `^\S+ placed .*(ErrImagePull|ImagePullBackOff)`

func oldExamples(t *testing.T, c v1beta1Client) {
	files, err := filepath.Glob(filepath.Join(v1beta1Recordings, "examples/*.response"))
	if err != nil || len(files) < 14 {
		t.Fatalf("there are %d examples: %v", len(files), err)
	}
	for i, file := range files {
		file = strings.TrimSuffix(file, ".response")
		name := filepath.Base(file)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := newClient2014(t, c, fmt.Sprintf("example-%d", i))
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			e := example{client2014: k, file: file, text: string(text)}
			switch {
			case strings.Contains(name, "walkthrough_replication-controller"):
				e.refused(`^Error parsing .* as an object for replicationControllers: replicationController "nginxController" is invalid: desiredState.podTemplate.labels: `, "replicationControllers")
			case strings.Contains(name, "controller"):
				e.controller()
			case strings.Contains(name, "service"):
				e.service()
			default:
				e.pod()
			}
		})
	}
}

// example is a file of 2014.
type example struct {
	client2014
	file, text string
}

// exampleID finds the id in the text of an example.
var exampleID = regexp.MustCompile(`(?m)^ *"?id"?: "?([a-zA-Z0-9-]+)`)

// create creates the object and returns its id.
func (e example) create(resource string) (id string) {
	e.t.Helper()
	created := strings.TrimSpace(e.run("-template", "{{.id}}", "-c", e.file, "create", resource))
	if found := exampleID.FindStringSubmatch(e.text); strings.HasPrefix(e.text, "kind: Pod") { // which has none of its own
		if len(created) != 36 {
			e.t.Errorf("it has the id %q", created)
		}
	} else if found == nil || created != found[1] {
		e.t.Errorf("it has the id %q, want %q", created, found)
	}
	if ids := rows(e.run("list", "/"+resource)); !slices.Equal(ids, []string{created}) {
		e.t.Errorf("the list has %q, and not %s only", ids, created)
	}
	return created
}

// updated reads the object, changes it and writes it back, as a script does. The answer is the object as it is then.
func (e example) updated(path string, change func(o map[string]any)) (after map[string]any) {
	e.t.Helper()
	var o map[string]any
	if err := json.Unmarshal([]byte(e.run("-json", "get", path)), &o); err != nil {
		e.t.Fatal(err)
	}
	change(o)
	text, err := json.Marshal(o)
	if err != nil {
		e.t.Fatal(err)
	}
	file := filepath.Join(e.home, "changed.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		e.t.Fatal(err)
	}
	e.run("-c", file, "update", path)
	if err := json.Unmarshal([]byte(e.run("-json", "get", path)), &after); err != nil {
		e.t.Fatal(err)
	}
	return after
}

// relabeled adds a label to the object.
func (e example) relabeled(path string) {
	e.t.Helper()
	after := e.updated(path, func(o map[string]any) {
		labels, _ := o["labels"].(map[string]any)
		o["labels"] = map[string]any{"changed": "yes"}
		for key, value := range labels {
			o["labels"].(map[string]any)[key] = value
		}
	})
	if labels, _ := after["labels"].(map[string]any); labels["changed"] != "yes" {
		e.t.Errorf("%s has the labels %v", path, labels)
	}
}

func (e example) refused(message, resource string) {
	e.t.Helper()
	out, err := e.try(within(e.t, time.Minute), "-c", e.file, "create", resource)
	if err == nil || !regexp.MustCompile(message).MatchString(out) {
		e.t.Errorf("%v: it says %s", err, out)
	}
}

func (e example) deleted(resource, id string) {
	e.t.Helper()
	if out := e.run("delete", resource+"/"+id); out != "Status\n----------\nSuccess\n\n" {
		e.t.Errorf("it prints %q", out)
	}
}

func (e example) service() {
	id := e.create("services")
	e.updated("services/"+id, func(o map[string]any) { o["port"] = 4711 })
	if out := e.run("list", "services"); !regexp.MustCompile(`(?m)^` + id + ` .* 4711$`).MatchString(out) {
		e.t.Errorf("its port has not changed:\n%s", out)
	}
	e.deleted("services", id)
	if ids := rows(e.run("list", "services")); len(ids) > 0 {
		e.t.Errorf("there are %q", ids)
	}
}

func (e example) pod() {
	id := e.create("pods")
	e.until(waitsForItsImage, "-template", podStates, "list", "pods")
	if out := e.run("list", "pods"); !regexp.MustCompile(`(?m)^` + id + ` +dockerfile/\w+ +` + regexp.QuoteMeta(e.node) + `/[\d.]+ .* Waiting$`).MatchString(out) {
		e.t.Errorf("it prints\n%s", out)
	}
	e.relabeled("pods/" + id)
	e.deleted("pods", id)
	awaitNoPods(e.t, e.c, e.namespace)
}

func (e example) controller() {
	id := e.create("replicationControllers")
	e.until(waitsForItsImage, "-template", podStates, "list", "pods")
	e.relabeled("replicationControllers/" + id)
	if out := e.run("resize", id, "1"); !strings.Contains(out, "\ndesiredState:\n  replicas: 1\n") {
		e.t.Errorf("resize prints\n%s", out)
	}
	one := func() string {
		e.t.Helper()
		return rows(e.until(`\A[^\n]*\n[^\n]*\n[^\n]+\n\n\z`, "list", "pods"))[0]
	}
	before := one()
	e.run("-u", "1s", "rollingupdate", id)
	if after := one(); after == before {
		e.t.Errorf("the pod is still %s", before)
	}
	out, err := e.try(within(e.t, time.Minute), "rm", id)
	if err == nil || out != "Error: controller has non-zero replicas (1), please stop it first\n" {
		e.t.Errorf("%v: rm prints %q", err, out)
	}
	e.run("stop", id)
	awaitNoPods(e.t, e.c, e.namespace)
	if out := e.run("rm", id); out != "" {
		e.t.Errorf("rm prints %q", out)
	}
	if ids := rows(e.run("list", "replicationControllers")); len(ids) > 0 {
		e.t.Errorf("there are %q", ids)
	}
}

// oldStory is the first walk through Kubernetes: a pod, a controller that brings it back, and a service that leads to it.
func oldStory(t *testing.T, c v1beta1Client) {
	k := newClient2014(t, c, "story")
	file := func(name string) string { return filepath.Join(v1beta1Examples, name) }
	runs := ` +dockerfile/redis +` + regexp.QuoteMeta(c.node) + `/[\d.]+ +name=redis\S* +Running$`
	k.run("-c", file("redis.json"), "create", "/pods")
	k.until(`^redis`+runs, "list", "/pods")

	k.run("-c", file("redisController.json"), "create", "/replicationControllers")
	k.run("-c", file("redisService.json"), "create", "/services")
	k.run("delete", "pods/redis")
	k.until(`^rediscontroller-\w+`+runs, "list", "/pods")

	vip := regexp.MustCompile(`(?m)^redis +name=redis +name=redis +([\d.]+) +6379$`).FindStringSubmatch(k.run("list", "services"))
	if vip == nil {
		t.Fatal(k.run("list", "services"))
	}
	client := filepath.Join(k.home, "client.yaml")
	// Until the service leads somewhere, a client tries again.
	script := fmt.Sprintf(`set -ex; [ $REDIS_SERVICE_HOST:$REDIS_SERVICE_PORT = %s:6379 ]; until printf "GET /busybox HTTP/1.0\r\n\r\n" | nc -w 3 $REDIS_SERVICE_HOST $REDIS_SERVICE_PORT | grep -q "200 OK"; do sleep 1; done`, vip[1])
	text := fmt.Sprintf("id: client\ndesiredState:\n  manifest:\n    version: v1beta1\n    restartPolicy: {never: {}}\n    containers:\n    - name: client\n      image: %s\n"+
		"      imagePullPolicy: PullNever\n      entrypoint: [/bin/busybox, sh, -c]\n      command: ['%s']\n", image, script)
	if err := os.WriteFile(client, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	k.run("-c", client, "create", "pods")
	ended := k.until(`^Terminated `, "-template", "{{.currentState.status}} {{.currentState.info.client.state.termination.exitCode}}\n", "get", "pods/client")
	if !strings.HasPrefix(ended, "Terminated 0\n") {
		log, err := c.Kube.CoreV1().Pods(k.namespace).GetLogs("client", &corev1.PodLogOptions{}).DoRaw(t.Context())
		t.Errorf("the client ended so: %s%s %v", ended, log, err)
	}

	oldEndpoints(k)
	k.run("delete", "pods/client")
	k.run("stop", "redisController")
	awaitNoPods(t, c.Cluster, k.namespace)
	k.run("rm", "redisController")
	k.run("delete", "services/redis")
}

// oldEndpoints leads a service without a selector to the pod of the controller, and then nowhere.
func oldEndpoints(k client2014) {
	write := func(name, text string) (file string) {
		file = filepath.Join(k.home, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			k.t.Fatal(err)
		}
		return file
	}
	k.run("-c", write("db.yaml", "id: db\nport: 5432\n"), "create", "services")
	vip := strings.TrimSpace(k.run("-template", "{{.portalIP}}", "get", "services/db"))
	pod := strings.TrimSpace(k.run("-l", "replicationController=redisController", "-template", "{{range .items}}{{.currentState.podIP}}{{end}}", "list", "pods"))
	file := write("endpoints.yaml", "id: db\nendpoints: ['"+pod+":6379']\n")
	k.run("-c", file, "create", "endpoints")
	serves(k.t, vip+":5432")
	k.run("-c", write("endpoints.yaml", "id: db\nendpoints: ['192.0.2.1:1', '192.0.2.2:2']\n"), "update", "endpoints/db")
	k.until(`^db +192\.0\.2\.1:1,192\.0\.2\.2:2$`, "list", "endpoints")
	k.run("delete", "endpoints/db")
	k.until(`^db *$`, "list", "endpoints")
	if out, err := k.try(within(k.t, time.Minute), "-c", write("endpoints.yaml", "id: redis\nendpoints: ['192.0.2.1:1']\n"), "create", "endpoints"); err == nil || !strings.Contains(out, "they are the pods that the service selects") {
		k.t.Errorf("%v %s", err, out)
	}
	k.run("delete", "services/db")
}

// oldRun is a controller and a service by one line of kubecfg, and what it tells of the cluster.
func oldRun(t *testing.T, c v1beta1Client) {
	k := newClient2014(t, c, "run")
	out := k.run("-p", "31050:6379", "-s", "9000", "run", taggedRedisImage, "1", "web")
	vip := regexp.MustCompile(`(?m)^portalIP: ([\d.]+)$`).FindStringSubmatch(out)
	if vip == nil || strings.Count(out, "id: web\n") != 2 {
		t.Fatalf("it prints\n%s", out)
	}
	k.until(`simpleService=web +Running$`, "-l", "simpleService=web", "list", "pods")
	for _, address := range []string{"127.0.0.1:31050", vip[1] + ":9000"} { // a service leads to the first port of the pod
		serves(t, address)
	}

	old := rows(k.run("list", "pods"))
	k.run("-u", "1s", "-image", redisImage, "rollingupdate", "web")
	k.until(`^web-\w+ +`+redisImage+` `, "list", "pods")
	if now := rows(k.run("list", "pods")); slices.Equal(old, now) {
		t.Errorf("the pods are still %q", now)
	}
	k.until(`^web-\w+ +Pod .* Started `, "list", "events")
	if minions := rows(k.run("list", "minions")); !slices.Equal(minions, []string{c.node}) {
		t.Errorf("there are the minions %q", minions)
	}
	if out := k.run("-server_version", "-expect_version_match"); !strings.HasPrefix(out, "Server: Kubernetes v1.") {
		t.Errorf("it prints %q", out)
	}
	k.run("stop", "web")
	awaitNoPods(t, c.Cluster, k.namespace)
	k.run("rm", "web")
	k.run("delete", "services/web")
}

func oldProxy(t *testing.T, c v1beta1Client) {
	k := newClient2014(t, c, "proxy")
	cmd := k.command(within(t, time.Minute), "-proxy", "-open_browser=false", "-www", v1beta1Examples)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
	})
	get := func(path, host string) (code int, body string) { return fetch(t, "http://127.0.0.1:8001"+path, host) }
	if code, body := get("/api/v1beta1/minions", "localhost:8001"); code != http.StatusOK || !strings.Contains(body, c.node) {
		t.Errorf("%d %s", code, body)
	}
	if code, body := get("/static/redis.json", "127.0.0.1:8001"); code != http.StatusOK || !strings.Contains(body, "dockerfile/redis") {
		t.Errorf("%d %s", code, body)
	}
	if code, body := get("/api/v1beta1/minions", "example.com"); code != http.StatusForbidden {
		t.Errorf("%d %s", code, body)
	}
}

// serves waits until one of the redis pods answers at an address. Before the node knows the address, somebody beyond this machine may.
func serves(t *testing.T, address string) {
	t.Helper()
	err := scratch.Until(t.Context(), time.Minute, func(context.Context) error {
		if code, _ := fetch(t, "http://"+address+"/busybox", address); code != http.StatusOK {
			return fmt.Errorf("%s answers %d", address, code)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// fetch asks until somebody answers. host is what the request calls the server.
func fetch(t *testing.T, url, host string) (code int, body string) {
	t.Helper()
	err := scratch.Until(t.Context(), time.Minute, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		request.Host, request.Close = host, true // the next one may be to somebody else
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		code, body = response.StatusCode, string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return code, body
}
