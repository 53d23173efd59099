package e2e

import (
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/modfile"
)

const module = "github.com/k8sm/k8sm"

// rule forbids imports. A prefix names a package and all below it; "" in from means every package, "." the main one.
type rule struct {
	why    string
	from   string
	except []string
	never  []string
	may    []string // for all that
}

var rules = []rule{
	{
		why:    "a new Kubernetes must be a change of a version number and three small packages",
		except: []string{"api/controlplane", "minion/kubelet", "minion/proxy", "contrib/test/bench", "contrib/test/differential"},
		never:  []string{"k8s.io/kubernetes"},
	},
	{
		why:   "the scheduler and the executor share words, not code: either can be of another version",
		from:  "scheduler",
		never: []string{module + "/executor", module + "/minion"},
	},
	{
		why:    "the core decides by values alone: scheduler/run has the clock and the goroutines, the adapters have the I/O",
		from:   "scheduler",
		except: []string{"scheduler/artifact", "scheduler/kube", "scheduler/mesos", "scheduler/run", "scheduler/status"},
		never: []string{
			"context", "log", "net", "os", "sync", "syscall", "golang.org/x/sync", "github.com/prometheus", "github.com/sirupsen/logrus",
			"k8s.io/client-go", module + "/scheduler/run", module + "/scheduler/kube", module + "/scheduler/mesos",
		},
		may: []string{"net/netip"}, // values, without I/O
	},
	{
		why:   "which agent takes a pod depends on no clock, and on nothing that the core knows of tasks",
		from:  "scheduler/match",
		never: []string{"time", module + "/scheduler"},
	},
	{
		why:   "the owner loop declares the interfaces that the adapters implement",
		from:  "scheduler/run",
		never: []string{module + "/scheduler/artifact", module + "/scheduler/kube", module + "/scheduler/mesos", module + "/scheduler/status", "k8s.io/client-go"},
	},
	{
		why:   "the scheduler and the executor share words, not code: either can be of another version",
		from:  "executor",
		never: []string{module + "/scheduler", module + "/offers", module + "/minion"},
	},
	{
		why:   "what runs on a node must not need what runs beside the master",
		from:  "minion",
		never: []string{module + "/scheduler", module + "/offers", module + "/api/controlplane", module + "/api/state"},
	},
	{
		why:   "the storage of offers is pure: time and offers come in as values",
		from:  "offers",
		never: []string{"net", "net/http", "os", "k8s.io/client-go", "github.com/sirupsen/logrus", module + "/scheduler"},
	},
	{
		why:    "the words that all share import nobody",
		from:   "api",
		except: []string{"api/approver", "api/balancer", "api/callers", "api/certfile", "api/connlimit", "api/controlplane", "api/etcd", "api/falcon", "api/footprint", "api/health", "api/heldport", "api/join", "api/mesoshttp", "api/podtrace/tracehttp", "api/profiling", "api/protobuf", "api/resolve", "api/secretkeys", "api/snapshot", "api/state", "api/statedir"}, // they connect to others or keep files
		never:  []string{module, "net", "os", "k8s.io/client-go"},
		may:    []string{"net/netip", module + "/api"}, // values, without I/O
	},
	{
		why:    "what is contributed is used, not depended upon",
		except: []string{".", "contrib"},
		never:  []string{module + "/contrib"},
	},
	{
		why:   "main only starts the command line: what it does can be tested",
		from:  ".",
		never: []string{module},
		may:   []string{module + "/contrib/cli"},
	},
	{
		why:    "only the command line knows everybody, and nobody but main knows it",
		except: []string{".", "contrib/cli"},
		never:  []string{module + "/contrib/cli"},
	},
	{
		why:    "what only tests, benchmarks and suites use is not linked into km",
		except: []string{"contrib/test"},
		never:  []string{module + "/contrib/test"},
	},
	{
		why:    "VictoriaLogs has global variables: one package knows it",
		except: []string{"contrib/logs/store"},
		never:  []string{"github.com/VictoriaMetrics"},
	},
	{
		why:   "the local Mesos must be no kinder to k8sm than the real one: it does not know it",
		from:  "contrib/localmesos",
		never: []string{module + "/scheduler", module + "/executor", module + "/offers", module + "/minion", "k8s.io"},
	},
}

// listed is what `go list -json` says of a package.
type listed struct {
	ImportPath string
	Imports    []string
}

func TestImportRules(t *testing.T) {
	packages := list(t)
	for _, r := range rules {
		matched := false
		for _, p := range packages {
			folder := cmp.Or(strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/"), ".")
			if !below(folder, r.from) || excepted(folder, r.except) {
				continue
			}
			matched = true
			for _, imported := range p.Imports {
				for _, never := range r.never {
					if imported != p.ImportPath && below(imported, never) && !slices.Contains(r.may, imported) {
						t.Errorf("%s imports %s: %s", p.ImportPath, imported, r.why)
					}
				}
			}
		}
		if !matched {
			t.Errorf("no package is under the rule for %q: it guards nothing", r.from)
		}
	}
}

// embedded are the programs embedded in km, and what each may import beside the standard library.
var embedded = map[string][]string{
	"minion/cri/pause":      {"minion/cri/pause"},
	"minion/warden/program": {"minion/warden/program", "minion/warden"},
	"minion/keeper/program": {"minion/keeper/program", "minion/keeper"},
	"minion/nft/program":    {"minion/nft/program", "minion/nft"},
}

// Each runs on a node all the time, pause once per pod, or starts with each change of a service, so its imports cost memory and time.
func TestImportsOfEmbeddedPrograms(t *testing.T) {
	for program, own := range embedded {
		cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{.ImportPath}} {{.Standard}}", "./"+program)
		cmd.Dir = root
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("cannot list what %s imports: %v", program, err)
		}
		for line := range strings.Lines(string(out)) {
			path, standard, _ := strings.Cut(strings.TrimSpace(line), " ")
			if standard == "true" && path != "net" || slices.Contains(own, strings.TrimPrefix(path, module+"/")) {
				continue
			}
			t.Errorf("%s is made of %s: it has to stay small", program, path)
		}
	}
}

// A scanner reads what go.mod requires, not what it replaces that with.
func TestImportsAreOfTheVersionsThatGoModRequires(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	file, err := modfile.Parse("go.mod", data, nil)
	if err != nil {
		t.Fatal(err)
	}
	replaced := map[string]string{}
	for _, r := range file.Replace {
		if r.New.Path != r.Old.Path {
			t.Errorf("%s is replaced by another module, %s", r.Old.Path, r.New.Path)
		}
		replaced[r.Old.Path] = r.New.Version
	}
	for _, r := range file.Require {
		if linked, ok := replaced[r.Mod.Path]; ok && linked != r.Mod.Version {
			t.Errorf("go.mod requires %s, and links %s: require that, and exclude what a dependency asks for beyond it", r.Mod, linked)
		}
	}
}

// below reports whether a path is the prefix itself or stands below it.
func below(path, prefix string) bool {
	return prefix == "" || path == prefix || strings.HasPrefix(path, prefix+"/")
}

func excepted(folder string, except []string) bool {
	for _, e := range except {
		if below(folder, e) {
			return true
		}
	}
	return false
}

func list(t *testing.T) []listed {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports", module+"/...")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("cannot list the packages: %v", err)
	}
	var packages []listed
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}
