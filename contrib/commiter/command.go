package commiter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/k8sm/k8sm/api/commit"
)

// Cluster is what the command needs from a cluster.
type Cluster struct {
	Kubernetes kubernetes.Interface
	Objects    dynamic.Interface
}

// Connect connects to the cluster of a kubeconfig; "" means the cluster in --state-dir, as its administrator.
type Connect func(kubeconfig string) (Cluster, error)

// options are the flags.
type options struct {
	kubeconfig, namespace, container, pushSecret string
	timeout                                      time.Duration
	commit.Component
	dir              string
	upload           string
	login            login
	takeover, dryRun bool
}

const help = `Makes an image of a pod's container, as it is now, and pushes it to a registry:

  km commit pod/web-x7k2p registry.example:5000/web:20261130

Or makes one of each pod of a ReplicationController whose pods have addresses of a pool, and what brings each pod back, here or in
another cluster, with its image and its address:

  km commit rc/web --registry registry.example:5000 --app shop --component web --ftp sftp://backup@files.example --takeover

The pod with the address IP gets the image REGISTRY/APP-COMPONENT-IP:TAG, the label IP=<ip>, and a ReplicationController for it alone,
its pod_rc, in the file DIR/APP-COMPONENT-IP.yaml, which --ftp uploads to /APP/COMPONENT. etcd has the addresses by image below
` + commit.KeyPrefix + `. With --takeover the pod_rcs take the pods over from their ReplicationController, without a restart.

Call it again if it was interrupted: it goes on where it was. Volumes are not in an image. Docs: docs/commiter.md.`

// NewCommand returns `km commit`.
func NewCommand(connect Connect) *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use: "commit pod/NAME IMAGE | rc/NAME", Short: "Make images of pods' containers, and take pods over from their ReplicationController",
		Long: help, Args: cobra.MinimumNArgs(1),
	}
	flags := cmd.Flags()
	flags.StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig `file` of the cluster (default: the administrator's in --state-dir)")
	flags.StringVarP(&o.namespace, "namespace", "n", "default", "namespace of the pod or ReplicationController")
	flags.StringVarP(&o.container, "container", "c", "", "`name` of the container to commit (default: the pod's only one, or that of its annotation "+defaultContainer+")")
	flags.StringVar(&o.pushSecret, "push-secret", "", "Secret of the namespace with the registry's credentials (default: the pod's imagePullSecrets)")
	flags.DurationVar(&o.timeout, "timeout", 30*time.Minute, "how long to wait for the images; then call it again to wait on")
	flags.BoolVar(&o.dryRun, "dry-run", false, "check, and print what would be done, without doing it")
	flags.StringVar(&o.Registry, "registry", "", "rc: `HOST[:PORT][/PROJECT]` that the images are pushed to")
	flags.StringVar(&o.App, "app", "", "rc: name of the application, part of all names")
	flags.StringVar(&o.Name, "component", "", "rc: name of the component, part of all names")
	flags.StringVar(&o.Tag, "tag", "", "rc: tag of the images (default: today, such as 20261130)")
	flags.StringVar(&o.dir, "dir", "", "rc: `directory` for the files of pod_rcs (default: APP/COMPONENT)")
	flags.StringVar(&o.upload, "ftp", "", "rc: `URL` to upload the files to, below its path: ftp://, ftps:// or sftp://[USER@]HOST[:PORT][/PATH]. ftps is FTP with TLS, from the first byte at port 990")
	flags.StringVar(&o.login.passwordFile, "ftp-password-file", "", "rc: `file` with the password for --ftp")
	flags.StringVar(&o.login.keyFile, "ftp-key-file", "", "rc: private key `file` for --ftp=sftp://")
	flags.StringVar(&o.login.knownHosts, "ftp-known-hosts", "", "rc: `file` with the host keys of --ftp=sftp:// (default: ~/.ssh/known_hosts)")
	flags.StringVar(&o.login.caFile, "ftp-ca-file", "", "rc: CA `file` for --ftp=ftps:// (default: those of this machine)")
	flags.BoolVar(&o.takeover, "takeover", false, "rc: let the pod_rcs take the pods over; the ReplicationController goes")
	cmd.PreRunE = func(_ *cobra.Command, args []string) error { return o.check(args, time.Now()) }
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		to, err := parseUpload(o.upload, o.login)
		if err != nil {
			return err
		}
		cluster, err := connect(o.kubeconfig)
		if err != nil {
			return err
		}
		r := run{Cluster: cluster, options: o, to: to, out: cmd.OutOrStdout()}
		kind, name, _ := strings.Cut(args[0], "/")
		if isPod(kind) {
			return r.one(cmd.Context(), name, args[1])
		}
		return r.component(cmd.Context(), name)
	}
	return cmd
}

// run is one call of the command.
type run struct {
	Cluster
	options
	to  *target // nil for no upload
	out io.Writer
}

// say prints what was done. Each line is about one step, which is over.
func (r *run) say(format string, args ...any) { fmt.Fprintf(r.out, format+"\n", args...) }

func isPod(kind string) bool { return slices.Contains([]string{"pod", "pods", "po"}, kind) }

func isRC(kind string) bool {
	return slices.Contains([]string{"rc", "replicationcontroller", "replicationcontrollers"}, kind)
}

// controllers are kinds that people may try, with why they cannot be taken over.
var controllers = map[string]string{
	"deployment": "a Deployment", "deploy": "a Deployment", "statefulset": "a StatefulSet", "sts": "a StatefulSet", "daemonset": "a DaemonSet",
	"ds": "a DaemonSet", "job": "a Job", "cronjob": "a CronJob", "replicaset": "a ReplicaSet", "rs": "a ReplicaSet",
}

// arguments checks the arguments.
func arguments(args []string) error {
	kind, name, found := strings.Cut(args[0], "/")
	what := controllers[kind]
	if what == "" {
		what = controllers[strings.TrimSuffix(kind, "s")]
	}
	switch {
	case what != "":
		return fmt.Errorf("cannot commit %s: %s makes all its pods from one template, and would replace those that are taken over. "+
			"Commit its pods one by one, km commit pod/NAME IMAGE, or run the component by a ReplicationController", args[0], what)
	case !found || !isPod(kind) && !isRC(kind) || len(validation.IsDNS1123Subdomain(name)) > 0:
		return fmt.Errorf("cannot commit %q: give pod/NAME or rc/NAME", args[0])
	case isPod(kind) && len(args) < 2:
		return errors.New("missing argument: IMAGE, such as registry.example:5000/web:20261130")
	case isPod(kind) && len(args) > 2:
		return fmt.Errorf("unexpected argument %q", args[2])
	case isRC(kind) && len(args) > 1:
		return fmt.Errorf("unexpected argument %q: the images' names follow from --registry, --app and --component", args[1])
	}
	return nil
}

// check finds a wrong command line, and fills in the defaults.
func (o *options) check(args []string, now time.Time) error {
	if err := arguments(args); err != nil {
		return err
	}
	if o.timeout <= 0 {
		return fmt.Errorf("cannot use --timeout=%s: give a time such as 30m", o.timeout)
	}
	if wrong := validation.IsDNS1123Label(o.namespace); len(wrong) > 0 {
		return fmt.Errorf("cannot use --namespace=%s: %s", o.namespace, wrong[0])
	}
	if kind, _, _ := strings.Cut(args[0], "/"); isPod(kind) {
		if o.Registry+o.App+o.Name+o.Tag+o.dir+o.upload != "" || o.takeover {
			return errors.New("cannot use --registry, --app, --component, --tag, --dir, --ftp or --takeover with a pod: they are for rc/NAME")
		}
		_, err := commit.ParseImage(args[1])
		return err
	}
	for flag, value := range map[string]string{"registry": o.Registry, "app": o.App, "component": o.Name} {
		if value == "" {
			return fmt.Errorf("cannot commit %s without --%s", args[0], flag)
		}
	}
	if o.Tag == "" {
		o.Tag = now.Format("20060102")
	}
	if o.dir == "" {
		o.dir = filepath.Join(o.App, o.Name)
	}
	if err := o.Validate(); err != nil {
		return err
	}
	_, err := parseUpload(o.upload, o.login)
	return err
}

// one commits one container.
func (r *run) one(ctx context.Context, name, image string) error {
	pod, err := r.pod(ctx, name)
	if err != nil {
		return err
	}
	container, err := containerOf(pod, r.container)
	if err != nil {
		return err
	}
	if r.dryRun {
		r.say("would commit container %s of pod/%s to %s", container, name, image)
		return nil
	}
	made, err := r.commit(ctx, []wish{{pod: pod, container: container, image: image}}, false)
	if err != nil {
		return err
	}
	return r.take(ctx, made)
}

// home is the directory of the user, for known_hosts.
func home() string {
	dir, err := os.UserHomeDir()
	if err != nil {
		return ""
	}
	return dir
}
