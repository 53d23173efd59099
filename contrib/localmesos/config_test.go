package localmesos

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	mesos "github.com/mesos/mesos-go/api/v1/lib"

	"github.com/k8sm/k8sm/api/heldport"
)

func TestAttributesHaveTheFourTypesOfMesos(t *testing.T) {
	got, err := parseAttributes("rack:r1; weight:3 ;ids:[1-5,7];tags:{a, b};url:http://x:1")
	if err != nil {
		t.Fatal(err)
	}
	want := []mesos.Attribute{
		{Name: "rack", Type: mesos.TEXT, Text: &mesos.Value_Text{Value: "r1"}},
		{Name: "weight", Type: mesos.SCALAR, Scalar: &mesos.Value_Scalar{Value: 3}},
		{Name: "ids", Type: mesos.RANGES, Ranges: &mesos.Value_Ranges{Range: []mesos.Value_Range{{Begin: 1, End: 5}, {Begin: 7, End: 7}}}},
		{Name: "tags", Type: mesos.SET, Set: &mesos.Value_Set{Item: []string{"a", "b"}}},
		{Name: "url", Type: mesos.TEXT, Text: &mesos.Value_Text{Value: "http://x:1"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestResourcesAreParsedAndWrongOnesAreNamed(t *testing.T) {
	for text, want := range map[string]string{
		"cpus:4;mem:4096;ports:[31000-32000]": "cpus:4; mem:4096; ports:[31000-32000]",
		"cpus:1.5;cpus(role):2;cpus:0.5":      "cpus:2; cpus(reservations: [(STATIC,role)]):2",
		"ports:[5-6, 1-4, 9-9]":               "ports:[1-6, 9-9]",
		"":                                    "",
		`[{"name":"cpus","type":"SCALAR","scalar":{"value":1.5}},{"name":"cpus","type":"SCALAR","scalar":{"value":2},"role":"web"}]`:  "cpus:1.5; cpus(reservations: [(STATIC,web)]):2",
		`[{"name":"ports","type":"RANGES","ranges":{"range":[{"begin":1,"end":6}]},"reservations":[{"type":"STATIC","role":"a/b"}]}]`: "ports(reservations: [(STATIC,a/b)]):[1-6]",
	} {
		if got, err := parseResources(text); err != nil || got.String() != want {
			t.Errorf("%q is %q (%v)", text, got, err)
		}
	}
	for _, text := range []string{"cpus", "cpus:", "cpus:many", "cpus:-1", "ports:[9-1]", "ports:[1-2", "x:{a", "(r):1", "cpus(bad role):1"} {
		if p, err := parseResources(text); err == nil || !strings.Contains(err.Error(), strings.SplitN(text, ":", 2)[0]) {
			t.Errorf("%q is %q, and the error is %v", text, p, err)
		}
	}
}

func TestUnsupportedResourcesInJSONAreNamed(t *testing.T) {
	for _, more := range []string{
		`"role":"a//b"`, `"role":"a","reservation":{"principal":"ops"}`, `"revocable":{}`, `"disk":{"persistence":{"id":"v"}}`,
		`"reservations":[{"type":"STATIC","role":"a"},{"type":"DYNAMIC","role":"a/b"}]`, `"scalar":{"value":0}`, `"name":7`,
	} {
		text := `[{"name":"cpus","type":"SCALAR","scalar":{"value":1},` + more + `}]`
		if p, err := parseResources(text); err == nil || !strings.Contains(err.Error(), "cpus") {
			t.Errorf("%s is %s, and the error is %v", text, p, err)
		}
	}
}

func TestPoolsAddAndSubtractExactly(t *testing.T) {
	all := mustPool(t, "cpus:1;mem:100;ports:[1-10];set:{a,b}")
	part := mustPool(t, "cpus:0.1;ports:[3-4,10-10];set:{a}")
	rest := all.minus(part).minus(mustPool(t, "cpus:0.7")).minus(mustPool(t, "cpus:0.2"))
	if got := rest.String(); got != "mem:100; ports:[1-2, 5-9]; set:{b}" {
		t.Errorf("the rest is %s", got)
	}
	if back := rest.plus(part).plus(mustPool(t, "cpus:0.9")); !back.contains(all) || !all.contains(back) {
		t.Errorf("together they are %s", back)
	}
	if all.contains(mustPool(t, "ports:[10-11]")) || all.contains(mustPool(t, "gpus:1")) {
		t.Error("it contains what it does not have")
	}
}

func TestMachineWithoutResourcesFlagKeepsAReserve(t *testing.T) {
	for _, c := range [][3]int64{{8192, 1024, 7168}, {2000, 1024, 1000}, {2048, 1024, 1024}} {
		if got := lessReserve(c[0], c[1]); got != c[2] {
			t.Errorf("%d less %d is %d", c[0], c[1], got)
		}
	}
	text, err := machineResources(t.TempDir(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if p := mustPool(t, text); len(p) != 4 || !p.allocatable() {
		t.Errorf("the machine has %s", text)
	}
}

func TestInvalidFlagIsOneError(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"--agents":                        func(c *Config) { c.Agents = -1 },
		"--ip":                            func(c *Config) { c.IP = "localhost" },
		"--port":                          func(c *Config) { c.Port = 65535 },
		"--resources":                     func(c *Config) { c.Resources = "cpus" },
		"--oversubscribed":                func(c *Config) { c.Oversubscribed = "cpus(role):1" },
		"--attributes":                    func(c *Config) { c.Attributes = "rack" },
		"--isolation":                     func(c *Config) { c.Isolation = "cgroups/gpu" },
		"--work-dir":                      func(c *Config) { c.WorkDir = "" },
		"--container-disk-watch-interval": func(c *Config) { c.ContainerDiskWatchInterval = 0 },
		"--recovery-timeout":              func(c *Config) { c.RecoveryTimeout = 0 },
	} {
		c := testConfig(t)
		c.WorkDir = filepath.Join(t.TempDir(), "work")
		dir := c.WorkDir
		change(&c)
		_, err := Start(context.Background(), c)
		if err == nil || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: what was refused made its directory: %v", name, err)
		}
	}
}

func TestUsedPortAndUsedWorkDirAreRefused(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := testConfig(t)
	c.Port = port(l)
	if _, err := Start(context.Background(), c); err == nil || !strings.Contains(err.Error(), "--port") {
		t.Errorf("on a used port: %v", err)
	}
	c.Port = 0
	startCluster(t, c)
	if _, err := Start(context.Background(), c); err == nil || !strings.Contains(err.Error(), "--work-dir") {
		t.Errorf("in a used directory: %v", err)
	}
}

func TestRunServesUntilItsContextEnds(t *testing.T) {
	t.Parallel()
	c := testConfig(t)
	c.Port, c.Agents = heldport.OfTest(t), 0
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, c) }()
	url := fmt.Sprintf("http://127.0.0.1:%d/health", c.Port)
	eventually(t, "it serves", func() bool {
		resp, err := http.Get(url)
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if resp, err := http.Get(url); err == nil {
		resp.Body.Close()
		t.Error("it still serves")
	}
}

func TestAgentsHaveDifferentPortsAndIDs(t *testing.T) {
	t.Parallel()
	c := testConfig(t)
	c.Agents = 3
	cluster := startCluster(t, c)
	slaves, _ := at(get(t, "http://"+cluster.MasterAddr()+"/slaves")["body"], "slaves").([]any)
	ids, ports := map[string]bool{}, map[any]bool{}
	for _, s := range slaves {
		ids[text(s, "id")], ports[at(s, "port")] = true, true
	}
	if len(ids) != 3 || len(ports) != 3 {
		t.Errorf("ids %v, ports %v", ids, ports)
	}
}

func TestLocalFilesAreFetchedAndOthersRefused(t *testing.T) {
	t.Parallel()
	c := testConfig(t)
	c.FetcherCacheDir = filepath.Join(t.TempDir(), "cache")
	cluster := startCluster(t, c)
	script := filepath.Join(t.TempDir(), "script.sh")
	if err := os.WriteFile(script, []byte("#!/bin/sh\nexit 0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := subscribeWith(t, cluster, nil)
	o := f.mustOffer()
	f.accept(o, commandTask("local", o, "", func(task object) {
		task["command"] = object{"value": "./run", "shell": false, "uris": []any{object{"value": "file://" + script, "executable": true, "cache": true, "output_file": "run"}}}
	}))
	f.mustUpdate("local", "TASK_FINISHED")
	if found, err := filepath.Glob(filepath.Join(c.FetcherCacheDir, "*", "*script.sh")); err != nil || len(found) != 1 {
		t.Errorf("in the cache: %v, %v", found, err)
	}
	o = f.mustOffer()
	f.accept(o, commandTask("remote", o, "", func(task object) {
		task["command"] = object{"value": "true", "uris": []any{object{"value": "http://example.invalid/x"}}}
	}))
	if u := f.mustUpdate("remote", "TASK_FAILED"); text(u, "update", "status", "reason") != "REASON_CONTAINER_LAUNCH_FAILED" {
		t.Errorf("told as %v", u)
	}
}
