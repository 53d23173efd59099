package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	mesosapi "github.com/mesos/mesos-go/api/v1/lib"
	"github.com/mesos/mesos-go/api/v1/lib/encoding/codecs"
	"github.com/mesos/mesos-go/api/v1/lib/httpcli"
	"github.com/mesos/mesos-go/api/v1/lib/httpcli/httpsched"
	mesossched "github.com/mesos/mesos-go/api/v1/lib/scheduler"
	schedcalls "github.com/mesos/mesos-go/api/v1/lib/scheduler/calls"

	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// strangerVariable has the URL of a Mesos master and a file, for TestStranger.
const strangerVariable = "K8SM_TEST_STRANGER"

// TestStranger is a local user without any rights who tries to create a file as root, when strangerAtMesos starts it as one.
func TestStranger(t *testing.T) {
	master, file, started := strings.Cut(os.Getenv(strangerVariable), " ")
	if !started {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	fmt.Printf("uid %d gets: %v\n", os.Getuid(), runAsRoot(ctx, master, "touch "+file))
}

// runAsRoot subscribes as a framework and launches a command as root. It returns when the command has started.
func runAsRoot(ctx context.Context, master, command string) error {
	client := httpcli.New(httpcli.Endpoint(master+"/api/v1/scheduler"), httpcli.Codec(codecs.ByMediaType[codecs.MediaTypeProtobuf]))
	none := func() string { return "" } // do not try other masters
	caller := httpsched.NewCaller(client, httpsched.MaxRedirects(0), httpsched.EndpointCandidates(none))
	info := &mesosapi.FrameworkInfo{User: "root", Name: "stranger", Roles: []string{"*"},
		Capabilities: []mesosapi.FrameworkInfo_Capability{{Type: mesosapi.FrameworkInfo_Capability_MULTI_ROLE}}}
	stream, err := caller.Call(ctx, schedcalls.Subscribe(info))
	if err != nil {
		return err
	}
	defer stream.Close()
	var framework string
	for {
		var e mesossched.Event
		if err := stream.Decode(&e); err != nil {
			return err
		}
		switch e.GetType() {
		case mesossched.Event_SUBSCRIBED:
			framework = e.Subscribed.FrameworkID.Value
		case mesossched.Event_OFFERS:
			o := e.Offers.Offers[0]
			allocated := func(name string, value float64) mesosapi.Resource {
				return mesosapi.Resource{Name: name, Type: mesosapi.SCALAR.Enum(), Scalar: &mesosapi.Value_Scalar{Value: value}, AllocationInfo: o.AllocationInfo}
			}
			task := mesosapi.TaskInfo{Name: "t", TaskID: mesosapi.TaskID{Value: "t"}, AgentID: o.AgentID, Command: &mesosapi.CommandInfo{Value: &command},
				Resources: []mesosapi.Resource{allocated("cpus", 0.1), allocated("mem", 32)}}
			launch := schedcalls.Accept(schedcalls.OfferOperations{schedcalls.OpLaunch(task)}.WithOffers(o.ID)).With(schedcalls.Framework(framework))
			if response, err := caller.Call(ctx, launch); err != nil {
				return err
			} else if response != nil {
				response.Close()
			}
		case mesossched.Event_UPDATE:
			return nil
		}
	}
}

// strangerAtMesos lets a local user without any rights try, and looks for Mesos' secret where others could read it.
func strangerAtMesos(t *testing.T, c *scratch.Cluster, dir string) {
	file := filepath.Join(t.TempDir(), "root-was-here")
	cmd := exec.CommandContext(within(t, 2*time.Minute), "/proc/self/exe", "-test.run=^TestStranger$")
	cmd.Env, cmd.Dir = []string{strangerVariable + "=" + c.Master + " " + file}, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	said, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(said), "uid 65534 gets: ") || !strings.Contains(string(said), "401") {
		t.Errorf("it says %s, %v", said, err)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("it has run a command as root")
	}
	public := []string{filepath.Join(dir, "log", "km.log"), filepath.Join(dir, "running.json")}
	arguments, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"secret", "jwt_secret_key"} {
		path := filepath.Join(dir, "mesos", name)
		secret, err := os.ReadFile(path)
		info, statErr := os.Stat(path)
		if err != nil || statErr != nil || info.Mode().Perm() != 0o600 || len(secret) < 20 {
			t.Fatalf("%s: %v, %v, %v", path, info, err, statErr)
		}
		for _, path := range append(public, arguments...) {
			if content, _ := os.ReadFile(path); strings.Contains(string(content), strings.TrimSpace(string(secret))) {
				t.Errorf("%s is in %s", name, path)
			}
		}
	}
}
