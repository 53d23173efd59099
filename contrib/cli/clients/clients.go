// Package clients runs the stock kubectl and etcdctl as `km kubectl` and `km etcdctl`. It gives them the address and credentials
// of this cluster, unless the user gives others. It passes on all other arguments.
//
// Start reading at Kubectl.
package clients

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/etcdctl/v3/ctlv3"
	"k8s.io/component-base/cli"
	"k8s.io/component-base/logs"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"

	"github.com/k8sm/k8sm/api/statedir"
)

// Kubectl runs stock kubectl (https://kubernetes.io/docs/reference/kubectl/) as the administrator of the cluster in the
// directory. A --state-dir among the arguments overrides dir; --kubeconfig, --server or KUBECONFIG in the environment
// overrides both. The error is statedir.ErrNoCluster if none of them names a cluster. If kubectl fails, the process exits
// with kubectl's message and exit code.
func Kubectl(dir statedir.Dir, args []string) error {
	dir, args = TakeStateDir(dir, args)
	if os.Getenv("KUBECONFIG") == "" && !given(args, "kubeconfig", "server", "s") {
		if err := useKubeconfig(dir, args); err != nil {
			return err
		}
	}
	os.Args = append([]string{"kubectl"}, args...)
	cobra.EnablePrefixMatching = false // etcdctl's package turns it on for the whole process
	if _, err := logs.GlogSetter(cmd.GetLogVerbosity(os.Args)); err != nil {
		return fmt.Errorf("cannot set kubectl's verbosity: %w", err)
	}
	util.CheckErr(cli.RunNoErrOutput(cmd.NewDefaultKubectlCommand()))
	return nil
}

// Etcdctl runs stock etcdctl (https://etcd.io/docs/v3.6/dev-guide/interacting_v3/) with the address and certificates of
// the cluster's etcd. A --state-dir among the arguments overrides dir; --endpoints or ETCDCTL_ENDPOINTS in the environment
// overrides both, and then the user must give the certificates too. The error is statedir.ErrNoCluster if none of them names
// an etcd. If etcdctl fails, the process exits.
func Etcdctl(dir statedir.Dir, args []string) error {
	dir, args = TakeStateDir(dir, args)
	if os.Getenv("ETCDCTL_ENDPOINTS") == "" && !given(args, "endpoints") {
		if err := useEtcd(dir, args); err != nil {
			return err
		}
	}
	os.Args = append([]string{"etcdctl"}, args...)
	cobra.EnablePrefixMatching = true
	ctlv3.MustStart()
	return nil
}

func useKubeconfig(dir statedir.Dir, args []string) error {
	_, err := os.Stat(dir.AdminKubeconfig())
	if errors.Is(err, fs.ErrNotExist) {
		if !needsCluster(args) {
			return nil
		}
		return dir.NoCluster()
	}
	if err != nil {
		return fmt.Errorf("cannot find the cluster: %w", err)
	}
	return os.Setenv("KUBECONFIG", dir.AdminKubeconfig())
}

func useEtcd(dir statedir.Dir, args []string) error {
	etcd, err := dir.Etcd()
	if errors.Is(err, statedir.ErrNoCluster) {
		if !needsCluster(args) {
			return nil
		}
		return dir.NoCluster()
	}
	if err != nil {
		return err
	}
	for flag, value := range map[string]string{
		"endpoints": strings.Join(etcd.Endpoints, ","), "cacert": etcd.CAFile, "cert": etcd.CertFile, "key": etcd.KeyFile,
	} {
		// etcdctl fails if a setting comes both as a flag and from the environment.
		name := "ETCDCTL_" + strings.ToUpper(flag)
		if value == "" || os.Getenv(name) != "" || given(args, flag) {
			continue
		}
		if err := os.Setenv(name, value); err != nil {
			return fmt.Errorf("cannot pass on %s: %w", flag, err)
		}
	}
	return nil
}

// needsCluster reports whether the command contacts a server.
func needsCluster(args []string) bool {
	if len(args) == 0 || given(args, "help", "h", "client") {
		return false
	}
	return !slices.Contains([]string{"help", "completion", "options", "__complete", "__completeNoDesc"}, args[0])
}

// TakeStateDir removes --state-dir from the arguments and returns its value, or dir. The programs that get the others have no flag of
// that name.
func TakeStateDir(dir statedir.Dir, args []string) (statedir.Dir, []string) {
	for i, arg := range ownFlags(args) {
		if value, ok := strings.CutPrefix(arg, "--state-dir="); ok {
			return statedir.Dir(value), slices.Concat(args[:i], args[i+1:])
		}
		if arg == "--state-dir" && i+1 < len(args) {
			return statedir.Dir(args[i+1]), slices.Concat(args[:i], args[i+2:])
		}
	}
	return dir, args
}

// given reports whether the arguments contain one of the flags; a name of one letter is a short flag.
func given(args []string, names ...string) bool {
	for _, arg := range ownFlags(args) {
		for _, name := range names {
			flag := "--" + name
			if len(name) == 1 {
				flag = "-" + name
			}
			if arg == flag || strings.HasPrefix(arg, flag+"=") {
				return true
			}
		}
	}
	return false
}

// ownFlags are the arguments before "--"; what follows belongs to a program in a container.
func ownFlags(args []string) []string {
	if i := slices.Index(args, "--"); i >= 0 {
		return args[:i]
	}
	return args
}
