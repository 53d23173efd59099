package controlplane

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/sirupsen/logrus"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/cache"
	"k8s.io/component-base/configz"
	"k8s.io/kubernetes/cmd/kube-controller-manager/app"
	"k8s.io/kubernetes/cmd/kube-controller-manager/app/config"
	"k8s.io/kubernetes/cmd/kube-controller-manager/app/options"
)

// controllerManager returns a function that runs the stock kube-controller-manager
// (https://kubernetes.io/docs/reference/command-line-tools-reference/kube-controller-manager/). It listens nowhere. When a CA is replaced
// it starts again, because it reads what it publishes to pods at its start only.
func (c Config) controllerManager() (func(context.Context) error, error) {
	if _, err := c.controllerManagerOptions(); err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		for {
			known, err := c.authorities()
			if err != nil {
				return err
			}
			once, stop := context.WithCancel(ctx)
			go func() {
				defer stop()
				_ = c.awaitOtherAuthorities(once, known)
			}()
			err = c.runControllerManager(once)
			again := once.Err() != nil
			stop()
			if !again || err != nil || ctx.Err() != nil {
				return err
			}
			logrus.Info("a CA is replaced: starting the controller manager again")
		}
	}, nil
}

// setUpPatience is how long a controller manager may fail to start: the one before needs a while to end.
const setUpPatience = 20 * time.Second

// informerName is the name that the stock program gives to its informers. It must be free: with a lease, the program returns before its
// controllers have ended, and one that finds the name taken ends the whole process.
const informerName = "kube-controller-manager"

func informerNameIsFree() error {
	name, err := cache.NewInformerName(informerName)
	if err != nil {
		return err
	}
	name.Release()
	return nil
}

func (c Config) runControllerManager(ctx context.Context) error {
	o, err := c.controllerManagerOptions()
	if err != nil {
		return err
	}
	var config *config.Config
	set := func(ctx context.Context) (bool, error) { // nor may the one before have freed its port yet, if the operator gave one
		if err = informerNameIsFree(); err != nil {
			return false, nil
		}
		config, err = o.Config(ctx, app.KnownControllers(), app.ControllersDisabledByDefault(), app.ControllerAliases())
		return err == nil, nil
	}
	if wait.PollUntilContextTimeout(ctx, time.Second, setUpPatience, true, set) != nil && ctx.Err() == nil {
		return fmt.Errorf("cannot set up kube-controller-manager: %w", err)
	}
	if ctx.Err() != nil {
		return nil
	}
	defer configz.Delete(app.ConfigzName)
	err = app.Run(ctx, config.Complete())
	if ctx.Err() != nil {
		// It also returns an error if it is stopped before all its controllers have started.
		logrus.WithError(err).Debug("kube-controller-manager was stopped")
		return nil
	}
	if err != nil {
		return fmt.Errorf("kube-controller-manager stopped: %w", err)
	}
	return nil
}

// controllerManagerOptions returns kube-controller-manager's options with our flags and the operator's. The feature gates are set with
// kube-apiserver's.
func (c Config) controllerManagerOptions() (*options.KubeControllerManagerOptions, error) {
	p := controllerManagerProgram()
	ours := c.controllerManagerFlags()
	args, err := p.parse(c.ControllerManagerArgs, ours)
	if err != nil {
		return nil, err
	}
	args, _ = without(args, gatesFlag)
	o, err := options.NewKubeControllerManagerOptions()
	if err != nil {
		return nil, fmt.Errorf("cannot set up kube-controller-manager: %w", err)
	}
	sets := o.Flags(app.KnownControllers(), app.ControllersDisabledByDefault(), app.ControllerAliases())
	o.ParsedFlags = &sets
	return o, p.set(merged(sets), ours, args)
}

// checkControllerManager finds errors in what the operator passes to kube-controller-manager. Call checkAPIServer first: it sets the
// feature gates.
func (c Config) checkControllerManager() error {
	o, err := c.controllerManagerOptions()
	if err != nil {
		return err
	}
	if err := o.Validate(app.KnownControllers(), app.ControllersDisabledByDefault(), app.ControllerAliases()); err != nil {
		return fmt.Errorf("cannot use --%s: %w", controllerManagerProgram().flag, err)
	}
	return nil
}

// terminatedPods is how many pods that have ended are kept. Kubernetes' default, 12500, is more than a small etcd likes.
const terminatedPods = "1000"

func (c Config) controllerManagerFlags() flags {
	d := c.StateDir
	// An embedded etcd has one control plane, which need not wait for the lease of a dead one to expire. An external etcd may have
	// several. Without the feature gate the stock program exits the whole process when it loses its lease.
	several := !c.embeds()
	f := flags{
		"kubeconfig": d.ControllerManagerKubeconfig(), "secure-port": "0", "profiling": "false",
		// For metrics, pass secure-port: the listener then asks the API server who the caller is and what they may do.
		"bind-address": "127.0.0.1", "authentication-kubeconfig": d.ControllerManagerKubeconfig(), "authorization-kubeconfig": d.ControllerManagerKubeconfig(),
		"leader-elect": strconv.FormatBool(several),
		// Another one takes over ten seconds after a machine is lost; with the defaults of 15, 10 and 2 seconds, after twenty. A control plane
		// that cannot renew for five seconds ends, and is started again.
		"leader-elect-lease-duration": "7s", "leader-elect-renew-deadline": "5s", "leader-elect-retry-period": "1s",
		// At the start, one client requests a token for each controller; at the default rate this takes five seconds.
		"kube-api-qps": "100", "kube-api-burst": "200",
		"allocate-node-cidrs": "true", "cluster-cidr": c.ClusterCIDR, "service-cluster-ip-range": c.ServiceCIDR,

		"terminated-pod-gc-threshold": terminatedPods,

		"controllers":                     "*,bootstrap-signer-controller,token-cleaner-controller",
		"use-service-account-credentials": "true", "service-account-private-key-file": d.ServiceAccountKey(),
		"root-ca-file": d.CA(),
		// Each signer has its CA. The signer kubernetes.io/legacy-unknown has none: it would sign for any name.
		"cluster-signing-kube-apiserver-client-cert-file": d.CAIssuer(), "cluster-signing-kube-apiserver-client-key-file": d.CAKey(),
		"cluster-signing-kubelet-client-cert-file": d.CAIssuer(), "cluster-signing-kubelet-client-key-file": d.CAKey(),
		"cluster-signing-duration":                  c.Lives.Signed().String(),
		"cluster-signing-kubelet-serving-cert-file": d.KubeletServingIssuer(), "cluster-signing-kubelet-serving-key-file": d.KubeletServingCAKey(),
	}
	c.maskFlags(f)
	return f
}
