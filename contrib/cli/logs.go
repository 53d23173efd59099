package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/common/model"
	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/contrib/logs/client"
	"github.com/k8sm/k8sm/contrib/logs/read"
)

// logsFlags are the flags of `km logs`.
type logsFlags struct {
	kubeconfig, namespace       string
	all, components, frameworks bool
	container, selector, node   string
	since, until                string
	tail                        int
	grep, exclude               []string
	follow, previous, stamps    bool
	output, query               string
}

func logsCommand(c *common) *cobra.Command {
	var f logsFlags
	cmd := &cobra.Command{
		Use: "logs [POD | TYPE/NAME]...", Short: "Show what pods wrote, also those that are gone", Args: cobra.ArbitraryArgs,
		Long: `Shows what containers wrote, in the order in which they wrote it, from the cluster's log store: as kubectl logs does, but also of pods that
are gone, of several at once, and of any time that the store keeps. TYPE is deploy, rs, rc, sts, ds, job or cj: all pods that such an object
ever had. Whoever may read logs with kubectl may read them here. The kubeconfig is that of --kubeconfig or $KUBECONFIG, else the
administrator's in --state-dir.`,
		Example: `  km logs web-0                           a pod, as kubectl logs
  km logs deploy/web --since=1h -f        all pods of a deployment, and go on
  km logs -A --grep='panic|fatal' --since=1d
  km logs -l app=shop -c app --tail=20    the last lines of each container
  km logs job/report -o raw > report.txt  byte for byte
  km logs --query 'error | stats by (pod) count() errors'
  km logs --components kubelet --node=node-1`,
		RunE: func(cmd *cobra.Command, args []string) error {
			place, parameters, err := f.request(args, time.Now())
			if err := usage(err); err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			logs, namespace, err := f.connect(c)
			if err != nil {
				return err
			}
			if place.Resource == "pods" && !f.all && place.Namespace == "" {
				place.Namespace = namespace
			}
			out := bufio.NewWriterSize(cmd.OutOrStdout(), 64<<10)
			err = f.show(ctx, logs, place, parameters, printer{out: out, errs: cmd.ErrOrStderr(), flags: &f})
			if flushed := out.Flush(); err == nil {
				err = flushed
			}
			if ctx.Err() != nil { // Ctrl-C ends -f
				return nil
			}
			return err
		},
	}
	f.add(cmd)
	return cmd
}

func (f *logsFlags) add(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.kubeconfig, "kubeconfig", "", "`file` that says how to reach the API server, and who you are")
	fs.StringVarP(&f.namespace, "namespace", "n", "", "namespace of the pods (default: the kubeconfig's)")
	fs.BoolVarP(&f.all, "all-namespaces", "A", false, "pods of all namespaces")
	fs.StringVarP(&f.container, "container", "c", "", "only this container")
	fs.StringVarP(&f.selector, "selector", "l", "", "only pods with these `labels`, as of kubectl")
	fs.StringVar(&f.node, "node", "", "only pods and components of this node")
	fs.StringVar(&f.since, "since", "", "only lines since `then`: a time as 2026-11-30T12:00:00Z, or how long ago, as 90s, 5m, 1h or 2d")
	fs.StringVar(&f.until, "until", "", "only lines before `then`, likewise")
	fs.IntVar(&f.tail, "tail", -1, "only the last `lines` of each container")
	fs.StringArrayVar(&f.grep, "grep", nil, "only lines that match this `regexp` (RE2); several times: all of them")
	fs.StringArrayVar(&f.exclude, "exclude", nil, "no lines that match this `regexp`; several times: none of them")
	fs.BoolVarP(&f.follow, "follow", "f", false, "go on with lines as they arrive, until Ctrl-C")
	fs.BoolVarP(&f.previous, "previous", "p", false, "only of each container's run before the last one")
	fs.BoolVar(&f.stamps, "timestamps", false, "with each line, when it was written")
	fs.StringVarP(&f.output, "output", "o", "text", "`format`: text, raw (byte for byte, without names), or json (one object a line)")
	fs.StringVar(&f.query, "query", "", "run a `LogsQL` query over all these logs, and print its answer (https://docs.victoriametrics.com/victorialogs/logsql/)")
	fs.BoolVar(&f.components, "components", false, "what the cluster's own programs wrote, such as kubelet, and its events; arguments are their names. For administrators")
	fs.BoolVar(&f.frameworks, "frameworks", false, "with --query: what tasks of other Mesos frameworks sent. For administrators")
}

// connect returns a client, and the namespace of the kubeconfig.
func (f *logsFlags) connect(c *common) (*client.Client, string, error) {
	rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: c.dir().AdminKubeconfig()}
	switch {
	case f.kubeconfig != "":
		rules.ExplicitPath = f.kubeconfig
	case os.Getenv("KUBECONFIG") != "":
		rules = clientcmd.NewDefaultClientConfigLoadingRules()
	}
	loaded := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{})
	config, err := loaded.ClientConfig()
	if errors.Is(err, fs.ErrNotExist) && rules.ExplicitPath == c.dir().AdminKubeconfig() {
		return nil, "", c.dir().NoCluster()
	}
	if err != nil {
		return nil, "", fmt.Errorf("cannot read the kubeconfig: %w", err)
	}
	namespace, _, err := loaded.Namespace()
	if err != nil {
		return nil, "", fmt.Errorf("cannot read the kubeconfig: %w", err)
	}
	logs, err := client.New(config)
	return logs, namespace, err
}

// request returns what the flags and arguments ask for. The namespace may be missing.
func (f *logsFlags) request(args []string, now time.Time) (p client.Place, v url.Values, err error) {
	p, v = client.Place{Resource: "pods", Namespace: f.namespace}, url.Values{}
	switch {
	case f.output != "text" && f.output != "raw" && f.output != "json":
		return p, v, fmt.Errorf("cannot use --output=%s: give text, raw or json", f.output)
	case f.all && f.namespace != "":
		return p, v, errors.New("cannot use --namespace with --all-namespaces")
	case f.components && f.frameworks, f.frameworks && f.query == "":
		return p, v, errors.New("cannot use --frameworks without --query, or with --components")
	case f.query != "" && (len(args) > 0 || f.selector != "" || f.container != "" || f.node != "" || f.previous || f.tail >= 0 || len(f.grep)+len(f.exclude) > 0):
		return p, v, errors.New("cannot use --query with what selects lines besides it: write that into the query, such as pod:=web-0")
	case f.tail < -1:
		return p, v, fmt.Errorf("cannot use --tail=%d: give a number of lines", f.tail)
	}
	for name, text := range map[string]string{read.ParamSince: f.since, read.ParamUntil: f.until} {
		at, err := parseThen(text, now)
		if err != nil {
			return p, v, fmt.Errorf("cannot use --%s=%s: %w", name, text, err)
		}
		if text != "" {
			v.Set(name, at.UTC().Format(time.RFC3339Nano))
		}
	}
	if f.components {
		p = client.Place{Resource: api.LogsComponents}
	}
	if f.frameworks {
		p = client.Place{Resource: api.LogsFrameworks}
	}
	if f.query != "" {
		return p, f.queryValues(v), nil
	}
	for name, value := range map[string]string{read.ParamContainer: f.container, read.ParamSelector: f.selector, read.ParamNode: f.node} {
		if value != "" {
			v.Set(name, value)
		}
	}
	if f.tail >= 0 {
		v.Set(read.ParamTail, strconv.Itoa(f.tail))
	}
	for name, set := range map[string]bool{read.ParamFollow: f.follow, read.ParamPrevious: f.previous} {
		if set {
			v.Set(name, "true")
		}
	}
	for name, patterns := range map[string][]string{"grep": f.grep, "exclude": f.exclude} {
		for _, pattern := range patterns {
			if _, err := regexp.Compile(pattern); err != nil {
				return p, v, fmt.Errorf("cannot use --%s=%s: %w", name, pattern, err)
			}
		}
	}
	v[read.ParamGrep], v[read.ParamExclude] = f.grep, f.exclude
	if f.components {
		v[read.ParamComponent] = args
		return p, v, nil
	}
	return f.targets(p, v, args)
}

// queryValues are the parameters of a LogsQL query.
func (f *logsFlags) queryValues(lines url.Values) url.Values {
	v := url.Values{"query": {f.query}}
	if since := lines.Get(read.ParamSince); since != "" {
		v.Set("start", since)
	}
	if until := lines.Get(read.ParamUntil); until != "" {
		v.Set("end", until)
	}
	return v
}

// ownedBy are regular expressions for the controllers of the pods that an object of a type has, by the names that kubectl has for the type.
// A deployment has pods by its ReplicaSets, and a CronJob by its Jobs.
var ownedBy = map[string]string{
	"deploy": "ReplicaSet/%s-[a-z0-9]+", "deployment": "ReplicaSet/%s-[a-z0-9]+", "deployments": "ReplicaSet/%s-[a-z0-9]+",
	"rs": "ReplicaSet/%s", "replicaset": "ReplicaSet/%s", "replicasets": "ReplicaSet/%s",
	"rc": "ReplicationController/%s", "replicationcontroller": "ReplicationController/%s", "replicationcontrollers": "ReplicationController/%s",
	"sts": "StatefulSet/%s", "statefulset": "StatefulSet/%s", "statefulsets": "StatefulSet/%s",
	"ds": "DaemonSet/%s", "daemonset": "DaemonSet/%s", "daemonsets": "DaemonSet/%s",
	"job": "Job/%s", "jobs": "Job/%s",
	"cj": "Job/%s-[0-9]+", "cronjob": "Job/%s-[0-9]+", "cronjobs": "Job/%s-[0-9]+",
}

// targets adds the arguments: pods, or objects that have pods.
func (f *logsFlags) targets(p client.Place, v url.Values, args []string) (client.Place, url.Values, error) {
	var owners []string
	for _, arg := range args {
		kind, name, typed := strings.Cut(arg, "/")
		if !typed {
			kind, name = "pod", arg
		}
		pattern := ownedBy[strings.ToLower(kind)]
		switch {
		case name == "":
			return p, v, fmt.Errorf("cannot show the logs of %q: give a name", arg)
		case slices.Contains([]string{"po", "pod", "pods"}, strings.ToLower(kind)):
			v.Add(read.ParamPod, name)
		case pattern == "":
			return p, v, fmt.Errorf("cannot show the logs of %s: give a pod, or deploy, rs, rc, sts, ds, job or cj with a name; or use --selector", arg)
		default:
			owners = append(owners, fmt.Sprintf(pattern, regexp.QuoteMeta(name)))
		}
	}
	if len(owners) > 0 {
		if v.Has(read.ParamPod) {
			return p, v, errors.New("cannot show pods and other objects at once: give one kind of argument")
		}
		v.Set(read.ParamOwner, strings.Join(owners, "|"))
	}
	if len(v[read.ParamPod]) == 1 && !f.all { // who may read this pod's logs only may do so
		p.Pod = v.Get(read.ParamPod)
	}
	return p, v, nil
}

// parseThen parses a time, or how long ago it was.
func parseThen(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return now, nil
	}
	if at, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return at, nil
	}
	if ago, err := model.ParseDuration(text); err == nil {
		return now.Add(-time.Duration(ago)), nil
	}
	return now, errors.New("give a time as 2026-11-30T12:00:00Z, or how long ago, as 90s, 5m, 1h or 2d")
}

// show prints what is asked for.
func (f *logsFlags) show(ctx context.Context, logs *client.Client, place client.Place, parameters url.Values, p printer) error {
	if f.query != "" {
		answer, err := logs.Query(ctx, place, parameters, f.follow)
		if err != nil {
			return err
		}
		defer answer.Close()
		_, err = io.Copy(flushing{p.out}, answer)
		return err
	}
	found := 0
	err := logs.Lines(ctx, place, parameters, func(writers int) { p.names = writers != 1 }, func(l read.Line) error {
		found++
		return p.print(l)
	})
	if err != nil || found > 0 || f.follow {
		return err
	}
	if place.Namespace == "" {
		return errors.New("no such lines: the log store has what was written since there is one, and keeps it for --logs-retention")
	}
	return fmt.Errorf("no such lines in namespace %s: -A looks into all namespaces; the log store has what was written since there is one, and keeps it for --logs-retention", place.Namespace)
}

// flushing passes on each part at once.
type flushing struct{ *bufio.Writer }

// Write implements io.Writer.
func (f flushing) Write(part []byte) (int, error) {
	n, err := f.Writer.Write(part)
	return n, errors.Join(err, f.Flush())
}
