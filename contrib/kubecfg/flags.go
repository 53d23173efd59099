package kubecfg

import (
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"k8s.io/klog/v2"
)

// options are the flags.
type options struct {
	source                                string // of an object: a file, a URL or "-"
	host, apiVersion                      string
	labels, fields                        string
	ports, image                          string
	servicePort                           int
	update                                time.Duration
	json, yaml, verbose                   bool
	template, templateFile                string
	namespace, namespaceFile, authFile    string
	caFile, certFile, keyFile             string
	insecure                              bool
	proxy, openBrowser                    bool
	www                                   string
	version, serverVersion, expectVersion bool
	logs                                  logOptions
}

// logOptions are flags of the log that klog gets once all are known.
type logOptions struct {
	toStderr, alsoToStderr bool
	dir                    string
	flushEvery             time.Duration
}

// flags makes the flags with the texts and the defaults of 2014. What is wrong with them is printed on errs.
func (o *options) flags(errs io.Writer) *flag.FlagSet {
	fs := flag.NewFlagSet("kubecfg", flag.ContinueOnError)
	fs.SetOutput(errs)
	fs.Usage = func() {} // Run prints it, where it belongs
	home := os.Getenv("HOME")
	fs.StringVar(&o.host, "h", "", "The host to connect to.")
	fs.StringVar(&o.source, "c", "", "Path or URL to the config file, or '-' to read from STDIN")
	fs.StringVar(&o.apiVersion, "api_version", "v1beta1", "The version of the API to use against this server.")
	fs.StringVar(&o.labels, "l", "", "Selector (label query) to use for listing")
	fs.StringVar(&o.fields, "fields", "", "Selector (field query) to use for listing")
	fs.StringVar(&o.ports, "p", "", "The port spec, comma-separated list of <external>:<internal>,...")
	fs.IntVar(&o.servicePort, "s", -1, "If positive, create and run a corresponding service on this port, only used with 'run'")
	fs.DurationVar(&o.update, "u", time.Minute, "Update interval period")
	fs.StringVar(&o.image, "image", "", "Image used when updating a replicationController.  Will apply to the first container in the pod template.")
	fs.BoolVar(&o.json, "json", false, "If true, print raw JSON for responses")
	fs.BoolVar(&o.yaml, "yaml", false, "If true, print raw YAML for responses")
	fs.BoolVar(&o.verbose, "verbose", false, "If true, print extra information")
	fs.StringVar(&o.template, "template", "", "If present, parse this string as a golang template and use it for output printing")
	fs.StringVar(&o.templateFile, "template_file", "", "If present, load this file as a golang template and use it for output printing")
	fs.StringVar(&o.namespace, "ns", "", "If present, the namespace scope for this request.")
	fs.StringVar(&o.namespaceFile, "ns_file", filepath.Join(home, ".kubernetes_ns"), "Path to the namespace file")
	fs.StringVar(&o.authFile, "auth", filepath.Join(home, ".kubernetes_auth"), "Path to the auth info file.  If missing, prompt the user.  Only used if doing https.")
	fs.StringVar(&o.caFile, "certificate_authority", "", "Path to a cert. file for the certificate authority")
	fs.StringVar(&o.certFile, "client_certificate", "", "Path to a client certificate for TLS.")
	fs.StringVar(&o.keyFile, "client_key", "", "Path to a client key file for TLS.")
	fs.BoolVar(&o.insecure, "insecure_skip_tls_verify", false, "If true, the server's certificate will not be checked for validity. This will make your HTTPS connections insecure.")
	fs.BoolVar(&o.proxy, "proxy", false, "If true, run a proxy to the api server")
	fs.StringVar(&o.www, "www", "", "If -proxy is true, use this directory to serve static files")
	fs.BoolVar(&o.openBrowser, "open_browser", true, "If true, and -proxy is specified, open a browser pointed at the Kubernetes UX. Default true.")
	fs.BoolVar(&o.version, "version", false, "Print version information and quit")
	fs.BoolVar(&o.serverVersion, "server_version", false, "Print the server's version information and quit")
	fs.BoolVar(&o.expectVersion, "expect_version_match", false, "Fail if server's version doesn't match own version.")
	o.logs.addFlags(fs)
	return fs
}

func printUsage(fs *flag.FlagSet, w io.Writer) {
	fmt.Fprint(w, usageText)
	fs.SetOutput(w)
	fs.PrintDefaults()
}

func (l *logOptions) addFlags(fs *flag.FlagSet) {
	fs.BoolVar(&l.toStderr, "logtostderr", false, "log to standard error instead of files")
	fs.BoolVar(&l.alsoToStderr, "alsologtostderr", false, "log to standard error as well as files")
	fs.StringVar(&l.dir, "log_dir", "", "If non-empty, write log files in this directory")
	fs.DurationVar(&l.flushEvery, "log_flush_frequency", 5*time.Second, "Maximum number of seconds between log flushes")
	for name, usage := range map[string]string{
		"v":                "log level for V logs",
		"vmodule":          "comma-separated list of pattern=N settings for file-filtered logging",
		"stderrthreshold":  "logs at or above this threshold go to stderr",
		"log_backtrace_at": "when logging hits line file:N, emit a stack trace",
	} {
		fs.Func(name, usage, func(value string) error { return klogFlags().Set(name, value) })
	}
}

func klogFlags() *flag.FlagSet {
	fs := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(fs)
	return fs
}

// start directs klog as the flags say, and returns what ends it. The log goes to files only if their directory was given.
func (l *logOptions) start() (end func(), err error) {
	if l.dir == "" {
		return klog.Flush, nil
	}
	if _, err := os.ReadDir(l.dir); err != nil { // klog would take another directory
		return nil, sayf("cannot use -log_dir: %v", err)
	}
	settings := klogFlags()
	for name, value := range map[string]string{
		"log_dir": l.dir, "logtostderr": strconv.FormatBool(l.toStderr), "alsologtostderr": strconv.FormatBool(l.alsoToStderr),
	} {
		if err := settings.Set(name, value); err != nil {
			return nil, sayf("cannot use -%s: %v", name, err)
		}
	}
	klog.StartFlushDaemon(l.flushEvery)
	return func() {
		klog.StopFlushDaemon()
		klog.Flush()
	}, nil
}

const usageText = `Usage: kubecfg -h [-c config/file.json|url|-] <method>

Kubernetes REST API:

  kubecfg [OPTIONS] get|list|create|delete|update <minions|pods|replicationControllers|services>[/<id>]

Manage replication controllers:

  kubecfg [OPTIONS] stop|rm <controller>
  kubecfg [OPTIONS] [-u <time>] [-image <image>] rollingupdate <controller>
  kubecfg [OPTIONS] resize <controller> <replicas>

Launch a simple ReplicationController with a single container based
on the given image:

  kubecfg [OPTIONS] [-p <port spec>] run <image> <replicas> <controller>

Manage namespace:
	kubecfg [OPTIONS] ns [<namespace>]

Options:
`
