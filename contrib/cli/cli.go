// Package cli is km's command line, with one file per command. A command reads its flags, checks them, and connects the parts that
// it runs. Only this package imports all the others; only main imports it. It decides nothing about pods, offers or nodes.
//
// Start reading at rootCommand, then at the command you look for.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/bombsimon/logrusr/v4"
	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/client-go/transport"
	stock "k8s.io/component-base/cli"
	"k8s.io/klog/v2"

	"github.com/k8sm/k8sm/api/footprint"
	"github.com/k8sm/k8sm/api/logformat"
	"github.com/k8sm/k8sm/api/state"
	"github.com/k8sm/k8sm/api/statedir"
	"github.com/k8sm/k8sm/contrib/cli/configfile"
	"github.com/k8sm/k8sm/minion/kubelet"
	"github.com/k8sm/k8sm/minion/proxy"
)

// Main runs km with the process's arguments and returns its exit status. Some stock programs exit the process instead.
func Main() int {
	transport.CertCallbackRefreshDuration = certificatePoll
	// kubelet and kube-proxy expect component-base to set up their signals and logs.
	if len(os.Args) > 1 && (os.Args[1] == "kubelet" || os.Args[1] == "proxy") {
		footprint.Follow(context.Background())
		return stock.Run(rootCommand())
	}
	return Run(os.Args[1:], os.Stdout, os.Stderr)
}

// certificatePoll is how often clients of the API server look for a renewed certificate. client-go's five minutes are too long for
// certificates that last minutes.
const certificatePoll = 10 * time.Second

// Run runs one command line, without the program's name, and returns its exit status: 2 for a wrong command line, which starts
// nothing, and 1 for a failure. Either prints one line on errs.
func Run(args []string, out, errs io.Writer) int {
	root := rootCommand()
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errs)
	cmd, err := root.ExecuteC()
	if err == nil {
		return 0
	}
	if status, ok := statusOf(err); ok {
		return status
	}
	err = explainFlag(cmd, err) // cobra does not call SetFlagErrorFunc for flags before a command
	var wrong usageError
	if errors.As(err, &wrong) {
		end := ";"
		if strings.HasSuffix(err.Error(), "?") {
			end = ""
		}
		fmt.Fprintf(errs, "km: %v%s see %s --help\n", err, end, cmd.CommandPath())
		return exitUsage
	}
	if root.PersistentFlags().Lookup("log-format").Value.String() == string(logformat.JSON) {
		log := logrus.New()
		log.SetOutput(errs)
		log.SetFormatter(logformat.JSON.Formatter())
		log.Error(err)
	} else {
		fmt.Fprintf(errs, "km: %v\n", err)
	}
	return exitFailed
}

// defaultStateDir is the default of --state-dir.
const defaultStateDir = "/var/lib/k8sm"

// defaultName is the default of --cluster-name.
const defaultName = "k8sm"

// common has the flags of all commands.
type common struct {
	stateDir  string
	logLevel  logLevel
	logFormat logformat.Format
	notify    notifier // of serve
}

func (c *common) dir() statedir.Dir { return statedir.Dir(c.stateDir) }

func rootCommand() *cobra.Command {
	cobra.EnablePrefixMatching = false // etcdctl's package turns it on for the whole process
	c := common{logLevel: logLevel(logrus.InfoLevel), logFormat: logformat.Text}
	root := &cobra.Command{
		Use:   "km",
		Short: "Kubernetes as an Apache Mesos framework",
		Long: `km runs current, unmodified Kubernetes as an Apache Mesos framework: every pod is a Mesos task, and every Mesos
agent that sends an offer becomes a node. All roles of a cluster are in this one program, one command per role.

To try it on this machine, as root: km up`,
		SilenceUsage:     true,
		SilenceErrors:    true,
		TraverseChildren: true, // kubectl, kubecfg and etcdctl parse their own flags, so ours come before the command
		Args:             unknownCommand, DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("version") {
				return versionCommand().RunE(cmd, nil)
			}
			return cmd.Help()
		},
	}
	root.PersistentFlags().StringVar(&c.stateDir, "state-dir", defaultStateDir, "`directory` of the cluster's certificates, kubeconfigs and data")
	root.PersistentFlags().Var(&c.logLevel, "log-level", "lowest `level` to log: debug, info, warn or error")
	root.PersistentFlags().Var(&c.logFormat, "log-format", "`format` of the log: text or json. That of a control plane holds for its nodes, too")
	root.AddGroup(&cobra.Group{ID: "use", Title: "Use a cluster:"}, &cobra.Group{ID: "run", Title: "Run the parts of a cluster:"},
		&cobra.Group{ID: "node", Title: "Run on a node; the Mesos agent and the minion start these:"})
	kubelet, proxy := kubelet.NewCommand(context.Background()), proxy.NewCommand()
	kubelet.Short, proxy.Short = "Stock kubelet", "Stock kube-proxy"
	for _, stock := range []*cobra.Command{kubelet, proxy} { // they print their own errors
		stock.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return err })
	}
	// Some stock package adds a --version to every command of the process; ours is a command too.
	if flag := pflag.CommandLine.Lookup("version"); flag != nil {
		flag.Hidden, flag.Changed = true, false
	}
	for group, commands := range grouped(&c, kubelet, proxy) {
		for _, command := range commands {
			command.GroupID = group
			if command != kubelet && command != proxy && command.Name() != "etcd" { // whose --name is new, and no --cluster-name
				keepOldNames(command)
			}
			root.AddCommand(command)
		}
	}
	root.AddCommand(versionCommand(), manCommand(), wardenCommand(&c), stepOutCommand(), cleanUpCommand(&c))
	root.SetHelpCommand(helpCommand(root))
	root.InitDefaultCompletionCmd() // now, so that explainUsage covers it
	explainUsage(root)
	return root
}

// grouped returns the commands that people are shown, by group, with those of the stock programs.
func grouped(c *common, stock ...*cobra.Command) map[string][]*cobra.Command {
	return map[string][]*cobra.Command{
		"use": {
			configurable(upCommand(c)),
			nodesCommand(c),
			tasksCommand(c),
			queueCommand(c),
			offersCommand(c),
			configurable(uiCommand(c)),
			nodeCommand(c),
			assignerCommand(c),
			commitCommand(c),
			secretsCommand(c),
			snapshotCommand(c),
			upgradeCommand(c),
			frameworkCommand(c),
			certsCommand(c),
			pkiCommand(c),
			kubectlCommand(c),
			kubecfgCommand(c),
			etcdctlCommand(c),
			logsCommand(c),
			traceCommand(c),
			supportBundleCommand(c),
		},
		"run": {
			configurable(apiserverCommand(c)),
			configurable(etcdCommand(c)),
			configurable(schedulerCommand(c)),
			configurable(dnsCommand(c)),
			configurable(metricsCommand(c)),
			configurable(logstoreCommand(c)),
			localMesosCommand(c),
		},
		"node": append([]*cobra.Command{configurable(minionCommand(c))}, stock...),
	}
}

// serve runs a role until it ends or SIGINT or SIGTERM arrives. A second signal kills the process.
func serve(c *common, role func(ctx context.Context) error) error {
	logrus.SetLevel(logrus.Level(c.logLevel))
	logrus.SetFormatter(c.logFormat.Formatter())
	takeOverKlog()

	// Whoever read the output may be gone, as in `km up | head -1`: that is no reason to die and leave everything behind. To ignore the
	// signal would make children ignore it, too.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	footprint.Follow(ctx)
	context.AfterFunc(ctx, stop)
	c.notify = newNotifier()
	context.AfterFunc(ctx, c.notify.stopping)
	if err := role(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// takeOverKlog makes klog write through logrus. The stock packages' info is our debug.
func takeOverKlog() { klog.SetLogger(logrusr.New(logrus.StandardLogger()).V(1)) }

// configurable adds --config to a command.
func configurable(cmd *cobra.Command) *cobra.Command {
	file := cmd.Flags().String(configfile.Flag, "",
		"YAML `file` with flag names as keys, without the dashes; flags on the command line win")
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		if *file == "" {
			return nil
		}
		return usage(configfile.Apply(cmd.Flags(), *file))
	}
	return cmd
}

// helpCommand is like cobra's, but fails for an unknown command.
func helpCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use: "help [COMMAND]", Short: "Show the help of a command",
		RunE: func(_ *cobra.Command, args []string) error {
			at := root
			for _, name := range args {
				if !at.HasSubCommands() {
					break
				}
				next, _, err := at.Find([]string{name})
				if err != nil || next == at {
					return unknownCommand(at, []string{name})
				}
				at = next
			}
			return at.Help()
		},
	}
}

// kmFor returns how to call km for the cluster in the directory.
func kmFor(dir statedir.Dir, km string) string {
	if dir == defaultStateDir {
		return km
	}
	return km + " --state-dir " + string(dir)
}

func stateConfig(e statedir.Etcd, name string) state.Config {
	return state.Config{Endpoints: e.Endpoints, CAFile: e.CAFile, CertFile: e.CertFile, KeyFile: e.KeyFile, Name: name}
}
