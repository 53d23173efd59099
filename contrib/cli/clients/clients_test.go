package clients

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/k8sm/k8sm/api/state/etcdtest"
	"github.com/k8sm/k8sm/api/statedir"
)

// asProgram, in the environment, makes this test binary be kubectl or etcdctl, because they take over the process.
const asProgram = "K8SM_TEST_PROGRAM"

func TestMain(m *testing.M) {
	programs := map[string]func(statedir.Dir, []string) error{"kubectl": Kubectl, "etcdctl": Etcdctl}
	program, ok := programs[os.Getenv(asProgram)]
	if !ok {
		os.Exit(m.Run())
	}
	if err := program("/nonexistent", os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "km:", err)
		os.Exit(1)
	}
}

// run returns what the program prints, and its error output if it fails.
func run(t *testing.T, program string, args []string, env ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append([]string{asProgram + "=" + program, "HOME=" + t.TempDir()}, env...)
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = errors.New(strings.TrimSpace(string(exit.Stderr)))
	}
	return string(out), err
}

// apiServer answers every request with its path, and writes a kubeconfig for itself.
func apiServer(t *testing.T, kubeconfig string) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprint(w, "asked for ", r.URL.Path)
	}))
	t.Cleanup(server.Close)
	c := clientcmdapi.NewConfig()
	c.Clusters["c"] = &clientcmdapi.Cluster{Server: server.URL}
	c.Contexts["c"] = &clientcmdapi.Context{Cluster: "c"}
	c.CurrentContext = "c"
	if err := clientcmd.WriteToFile(*c, kubeconfig); err != nil {
		t.Fatal(err)
	}
}

func TestKubectlAsksTheClusterInTheStateDir(t *testing.T) {
	dir := statedir.Dir(t.TempDir())
	apiServer(t, dir.AdminKubeconfig())
	got, err := run(t, "kubectl", []string{"get", "--state-dir", string(dir), "--raw", "/here"})
	if err != nil || got != "asked for /here" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestUsersOwnKubeconfigWins(t *testing.T) {
	own := t.TempDir() + "/config"
	apiServer(t, own)
	if got, err := run(t, "kubectl", []string{"get", "--raw=/own"}, "KUBECONFIG="+own); err != nil || got != "asked for /own" {
		t.Errorf("by environment: got %q, %v", got, err)
	}
	if got, err := run(t, "kubectl", []string{"--kubeconfig", own, "get", "--raw=/own"}); err != nil || got != "asked for /own" {
		t.Errorf("by flag: got %q, %v", got, err)
	}
}

func TestNoClusterIsOneClearError(t *testing.T) {
	for program, args := range map[string][]string{"kubectl": {"get", "pods"}, "etcdctl": {"get", "x"}} {
		dir := t.TempDir()
		_, err := run(t, program, append([]string{"--state-dir=" + dir}, args...))
		want := "km: no cluster in " + dir + ": start one with km up, or set --state-dir"
		if err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", program, err, want)
		}
	}
}

func TestHelpNeedsNoCluster(t *testing.T) {
	for program, args := range map[string][]string{"kubectl": {"get", "--help"}, "etcdctl": {"--help"}} {
		if out, err := run(t, program, args); err != nil || !strings.Contains(out, program) {
			t.Errorf("%s: got %q, %v", program, out, err)
		}
	}
}

func TestKubectlCommandsAreNotAbbreviated(t *testing.T) {
	if out, err := run(t, "kubectl", []string{"versio", "--client"}); err == nil {
		t.Errorf("kubectl took versio for version: %q", out)
	}
}

func TestEtcdctlReadsAndWritesTheClustersEtcd(t *testing.T) {
	endpoint := "http://" + etcdtest.Start(t)
	dir := statedir.Dir(t.TempDir())
	if err := dir.WriteEtcd(statedir.Etcd{Endpoints: []string{endpoint}}); err != nil {
		t.Fatal(err)
	}
	value, _ := json.Marshal(map[string]string{"kind": "Node"})
	if _, err := run(t, "etcdctl", []string{"--state-dir", string(dir), "put", "/registry/minions/n", string(value)}); err != nil {
		t.Fatal(err)
	}
	want := "/registry/minions/n\n{\"kind\":\"Node\"}\n"
	for _, args := range [][]string{
		{"--state-dir", string(dir), "get", "--prefix", "/registry/minions"},
		{"--endpoints", endpoint, "get", "--prefix", "/registry/minions"},
	} {
		if got, err := run(t, "etcdctl", args); err != nil || got != want {
			t.Errorf("%q: got %q, %v", args, got, err)
		}
	}
}

func TestStateDirIsTakenOutOfTheArguments(t *testing.T) {
	for _, test := range []struct{ args, want []string }{
		{args: []string{"get", "pods"}, want: []string{"default", "get", "pods"}},
		{args: []string{"--state-dir=/s", "get"}, want: []string{"/s", "get"}},
		{args: []string{"get", "--state-dir", "/s", "pods"}, want: []string{"/s", "get", "pods"}},
		{args: []string{"exec", "p", "--", "run", "--state-dir=/s"}, want: []string{"default", "exec", "p", "--", "run", "--state-dir=/s"}},
	} {
		before := slices.Clone(test.args)
		dir, rest := TakeStateDir("default", test.args)
		if diff := cmp.Diff(test.want, append([]string{string(dir)}, rest...)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", test.args, diff)
		}
		if !slices.Equal(before, test.args) {
			t.Errorf("%q was changed to %q", before, test.args)
		}
	}
}

func TestFlagsOfAProgramInAContainerAreNotOurs(t *testing.T) {
	if given([]string{"exec", "p", "--", "curl", "--server=x"}, "server") {
		t.Error("took --server after -- for kubectl's")
	}
}
