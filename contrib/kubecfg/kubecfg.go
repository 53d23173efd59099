package kubecfg

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"

	"k8s.io/client-go/rest"

	"github.com/k8sm/k8sm/api"
)

// Exit statuses. Go's package flag makes a wrong command line 2.
const (
	exitFailed = 1
	exitUsage  = 2
)

// Call is one call of the program.
type Call struct {
	// Args are the arguments, without the program's name.
	Args []string
	In   io.Reader
	// Out gets what was asked for, Errs all else.
	Out, Errs io.Writer
	// Find returns how to reach the cluster if neither -h nor the variable KUBERNETES_MASTER says it. It is called only if a server is
	// needed, and what it returns is the program's.
	Find func() (*rest.Config, error)
	// Help is printed after the usage when the caller asks for help.
	Help string
}

// said is a message as people and scripts know it, which begins with a capital or a name of a flag.
type said string

func (s said) Error() string { return string(s) }

// sayf makes such a message. Errors within are not unwrapped: it is the end of them.
func sayf(format string, args ...any) error { return said(fmt.Sprintf(format, args...)) }

// after makes an error the end of a message that begins otherwise, unless it is a whole message itself.
func after(beginning string, err error) error {
	var whole said
	if err == nil || errors.As(err, &whole) {
		return err
	}
	return sayf("%s: %v", beginning, err)
}

// Run does what the arguments say and returns the exit status. It sets klog up, which is the whole process's.
func Run(ctx context.Context, call Call) (status int) {
	var o options
	fs := o.flags(call.Errs)
	switch err := fs.Parse(call.Args); {
	case errors.Is(err, flag.ErrHelp):
		printUsage(fs, call.Out)
		fmt.Fprint(call.Out, call.Help)
		return 0
	case err != nil: // it is printed already
		printUsage(fs, call.Errs)
		return exitUsage
	}
	end, err := o.logs.start()
	if err == nil {
		defer end()
		k := kubecfg{Call: call, options: o}
		err = k.run(ctx, fs.Args())
	}
	switch {
	case errors.Is(err, errNoVerb):
		printUsage(fs, call.Errs)
		return exitFailed
	case err != nil:
		fmt.Fprintln(call.Errs, visible(err.Error(), "\n\t"))
		return exitFailed
	}
	return 0
}

// errNoVerb says that the command line has flags only.
var errNoVerb = errors.New("no verb")

// kubecfg is a call whose flags are known.
type kubecfg struct {
	Call
	options
	client *client // see connect
}

func (k *kubecfg) run(ctx context.Context, args []string) error {
	if k.version {
		fmt.Fprintf(k.Out, "Kubernetes %s\n", api.KubernetesVersion)
		return nil
	}
	if err := k.findNamespace(); err != nil {
		return sayf("Error loading current namespace: %v", err)
	}
	if k.serverVersion || k.expectVersion {
		if done, err := k.compareVersions(ctx); done || err != nil {
			return err
		}
	}
	if k.proxy {
		return k.serveProxy(ctx)
	}
	if len(args) == 0 {
		return errNoVerb
	}
	for _, verbs := range []map[string]verb{resourceVerbs, controllerVerbs, namespaceVerbs} {
		if do, ok := verbs[args[0]]; ok {
			return do(k, ctx, args)
		}
	}
	return sayf("Unknown command %s", args[0])
}

// verb does one thing; the first argument is its name.
type verb func(k *kubecfg, ctx context.Context, args []string) error

// compareVersions prints the server's version if that was asked for, which is then all.
func (k *kubecfg) compareVersions(ctx context.Context) (done bool, err error) {
	if err := k.connect(); err != nil {
		return false, err
	}
	server, err := k.client.version(ctx)
	switch {
	case err != nil:
		return false, sayf("Couldn't read version from server: %v", err)
	case k.serverVersion:
		fmt.Fprintf(k.Out, "Server: Kubernetes %s\n", visible(server.String(), ""))
		return true, nil
	case server.GitVersion != api.KubernetesVersion:
		return false, sayf("Server version (%s) differs from client version (%s)!", server, api.KubernetesVersion)
	}
	return false, nil
}
