package cis

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/k8sm/k8sm/api/statedir"
)

// files are the items about files of the control plane.
func files() []item {
	noManifest := notApplicable("no static pod: km apiserver and km scheduler run it, and their flags are their configuration")
	noCNI := notApplicable("k8sm makes the pod network itself; with --network=cni the files are the plugin's")
	pki := func(s *seen, pattern string) []string { return glob(filepath.Join(string(s.Dir), "pki", pattern)) }
	one := func(path func(statedir.Dir) string) func(*seen) []string {
		return func(s *seen) []string { return []string{path(s.Dir)} }
	}
	return []item{
		{"1.1.1", "API server's pod manifest is 600", noManifest},
		{"1.1.2", "API server's pod manifest is root's", noManifest},
		{"1.1.3", "controller manager's pod manifest is 600", noManifest},
		{"1.1.4", "controller manager's pod manifest is root's", noManifest},
		{"1.1.5", "scheduler's pod manifest is 600", noManifest},
		{"1.1.6", "scheduler's pod manifest is root's", noManifest},
		{"1.1.7", "etcd's pod manifest is 600", noManifest},
		{"1.1.8", "etcd's pod manifest is root's", noManifest},
		{"1.1.9", "CNI files are 600", noCNI},
		{"1.1.10", "CNI files are root's", noCNI},
		{"1.1.11", "etcd's data directory is 700", mode(0o700, one(statedir.Dir.EtcdData))},
		{"1.1.12", "etcd's data directory is of user etcd", does(cannot("the embedded etcd is part of km apiserver, which runs as root; give your own etcd its own user"))},
		{"1.1.13", "administrator's kubeconfig is 600", mode(0o600, one(statedir.Dir.AdminKubeconfig))},
		{"1.1.14", "administrator's kubeconfig is root's", owned(one(statedir.Dir.AdminKubeconfig))},
		{"1.1.15", "scheduler's kubeconfig is 600", mode(0o600, one(statedir.Dir.SchedulerKubeconfig))},
		{"1.1.16", "scheduler's kubeconfig is root's", owned(one(statedir.Dir.SchedulerKubeconfig))},
		{"1.1.17", "controller manager's kubeconfig is 600", mode(0o600, one(statedir.Dir.ControllerManagerKubeconfig))},
		{"1.1.18", "controller manager's kubeconfig is root's", owned(one(statedir.Dir.ControllerManagerKubeconfig))},
		{"1.1.19", "PKI directory and files are root's", owned(func(s *seen) []string {
			return append(pki(s, "*"), filepath.Join(string(s.Dir), "pki"))
		})},
		{"1.1.20", "certificates are 600", mode(0o600, func(s *seen) []string { return pki(s, "*.crt") })},
		{"1.1.21", "private keys are 600", mode(0o600, func(s *seen) []string { return pki(s, "*.key") })},
	}
}

// nodeFiles are the items about files of the nodes.
func nodeFiles() []item {
	noService := notApplicable("no service: Mesos starts the minion, and the minion the kubelet")
	proxies := func(s *seen) (paths []string) {
		for _, p := range s.proxies {
			paths = append(paths, p.ClientConnection.Kubeconfig)
		}
		return paths
	}
	kubelets := func(path func(kubeletSeen) string) func(*seen) []string {
		return func(s *seen) (paths []string) {
			for _, k := range s.kubelets {
				paths = append(paths, path(k))
			}
			return paths
		}
	}
	argument := func(name string) func(kubeletSeen) string {
		return func(k kubeletSeen) string { return k.args[name] }
	}
	authority := func(k kubeletSeen) string { return k.config.Authentication.X509.ClientCAFile }
	return []item{
		{"4.1.1", "kubelet's service file is 600", noService},
		{"4.1.2", "kubelet's service file is root's", noService},
		{"4.1.3", "kube-proxy's kubeconfig is 600", mode(0o600, proxies)},
		{"4.1.4", "kube-proxy's kubeconfig is root's", owned(proxies)},
		{"4.1.5", "kubelet's kubeconfig is 600", mode(0o600, kubelets(argument("kubeconfig")))},
		{"4.1.6", "kubelet's kubeconfig is root's", owned(kubelets(argument("kubeconfig")))},
		{"4.1.7", "CA of the kubelet's clients is 600", mode(0o600, kubelets(authority))},
		{"4.1.8", "CA of the kubelet's clients is root's", owned(kubelets(authority))},
		{"4.1.9", "kubelet's configuration is 600", mode(0o600, kubelets(argument("config")))},
		{"4.1.10", "kubelet's configuration is root's", owned(kubelets(argument("config")))},
	}
}

func glob(pattern string) []string {
	paths, err := filepath.Glob(pattern)
	if err != nil {
		panic(err) // the pattern is wrong
	}
	return paths
}

// mode checks that files give no rights beyond those of most.
func mode(most fs.FileMode, paths func(*seen) []string) func(context.Context, *seen) verdict {
	return stat(paths, func(info fs.FileInfo) (string, bool) {
		is := info.Mode().Perm()
		return fmt.Sprintf("%o", is), is&^most == 0
	})
}

// owned checks that files belong to root and its group.
func owned(paths func(*seen) []string) func(context.Context, *seen) verdict {
	return stat(paths, func(info fs.FileInfo) (string, bool) {
		owner := info.Sys().(*syscall.Stat_t)
		return fmt.Sprintf("owner %d:%d", owner.Uid, owner.Gid), owner.Uid == 0 && owner.Gid == 0
	})
}

// stat checks each file. It fails if there is none.
func stat(paths func(*seen) []string, good func(fs.FileInfo) (is string, ok bool)) func(context.Context, *seen) verdict {
	return func(_ context.Context, s *seen) verdict {
		list := paths(s)
		if len(list) == 0 {
			return fail("no such file")
		}
		var what string
		for _, path := range list {
			info, err := os.Stat(path)
			if err != nil {
				return fail("%v", err)
			}
			is, ok := good(info)
			if !ok {
				return fail("%s is %s", path, is)
			}
			what = is
		}
		if len(list) > 1 {
			return pass("%d files, the last %s", len(list), what)
		}
		return pass("%s", what)
	}
}
