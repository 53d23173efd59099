package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// km runs a command line on a state directory that is not there, and returns its exit status and what it printed. A directory
// that appears fails the test: the command had started something.
func km(t *testing.T, args ...string) (status int, out, errs string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state")
	t.Chdir(t.TempDir())
	var stdout, stderr bytes.Buffer
	status = Run(append([]string{"--state-dir=" + dir}, args...), &stdout, &stderr)
	if _, err := os.Stat(dir); err == nil {
		t.Errorf("km %s made a state directory", strings.Join(args, " "))
	}
	if left, _ := os.ReadDir("."); len(left) > 0 {
		t.Errorf("km %s made %s", strings.Join(args, " "), left[0].Name())
	}
	return status, stdout.String(), stderr.String()
}

// wrongLines are command lines, and what km says of each.
var wrongLines = map[string]string{
	"frob":                                  `unknown command "frob"; see km --help`,
	"taks":                                  `unknown command "taks", did you mean tasks? see km --help`,
	"help frob":                             `unknown command "frob"; see km help --help`,
	"node kut":                              `unknown command "kut", did you mean cut? see km node --help`,
	"node cut":                              `missing argument: NODE; see km node cut --help`,
	"node cut one two":                      `unexpected argument "two"; see km node cut --help`,
	"node slow n --rate=fast":               `cannot use --rate=fast: give bits per second, such as 1M or 500k; see km node slow --help`,
	"assigner lst":                          `unknown command "lst", did you mean list? see km assigner --help`,
	"assigner import":                       `missing argument: FILE; see km assigner import --help`,
	"assigner release":                      `missing argument: POOL/IP | [NAMESPACE/]POD; see km assigner release --help`,
	"assigner list -o yaml":                 `cannot use --output=yaml: give table or json; see km assigner list --help`,
	"assigner list more":                    `unexpected argument "more"; see km assigner list --help`,
	"completion fish x":                     `unexpected argument "x"; see km completion fish --help`,
	"completion fsh":                        `unknown command "fsh", did you mean`,
	"--frob":                                `unknown flag --frob; see km --help`,
	"-x":                                    `unknown shorthand flag: 'x' in -x; see km --help`,
	"--log-level=loud tasks":                `cannot use --log-level=loud: give debug, info, warn or error; see km --help`,
	"--log-format=xml tasks":                `cannot use --log-format=xml: give text or json; see km --help`,
	"tasks --log-level=loud":                `cannot use --log-level=loud: give debug, info, warn or error; see km tasks --help`,
	"version 2":                             `unexpected argument "2"; see km version --help`,
	"up now":                                `unexpected argument "now"; see km up --help`,
	"up --nods=3":                           `unknown flag --nods, did you mean --nodes? see km up --help`,
	"up --nodes=x":                          `cannot use --nodes=x: give a whole number; see km up --help`,
	"up --nodes":                            `flag needs an argument: --nodes; see km up --help`,
	"up --nodes=0":                          `cannot use --nodes=0: give a number from 1 to 100; see km up --help`,
	"up --nodes=2 --docker-host=unix:///x":  `cannot use --docker-host with --nodes: km up starts a Docker Engine for each of several nodes; see km up --help`,
	"up --nodes=2 --bind-address=127.0.0.1": `cannot use --bind-address=127.0.0.1 with --nodes: nodes in network namespaces cannot reach loopback; see km up --help`,
	"up --nodes=2 --node-cidr=10.0.0.0":     `cannot use --node-cidr=10.0.0.0: not an IPv4 range such as 10.213.0.0/24, or that and an IPv6 one; see km up --help`,
	"up --offer-ttl=soon":                   `cannot use --offer-ttl=soon: give a time such as 30s, 5m or 1h; see km up --help`,
	"up --executor-suicide-timeout=soon":    `cannot use --minion-idle-timeout=soon: give a time such as 30s, 5m or 1h; see km up --help`,
	"up --network-policy=perhaps":           `cannot use --network-policy=perhaps: give true or false; see km up --help`,
	"up --executor-cpus=few":                `cannot use --executor-cpus=few: give a number; see km up --help`,
	"up --offer-ttl=0s":                     `--offer-ttl must be positive; see km up --help`,
	"up --secure-port=70000":                `cannot use --secure-port=70000: give a port from 0 to 65535; see km up --help`,
	"up --mesos-port=-1":                    `cannot use --mesos-port=-1: give a port from 0 to 65535; see km up --help`,
	"up --bind-address=here":                `cannot use --bind-address=here: not an IP address; see km up --help`,
	"up --status-address=10259":             `cannot use --status-address=10259: give host:port, such as 127.0.0.1:8080; see km up --help`,
	"up --config=missing.yaml":              `cannot read the configuration: open missing.yaml: no such file or directory; see km up --help`,
	"apiserver --cluster-cidr=10":           "--cluster-cidr=10",
	"apiserver --etcd-cafile=x":             `cannot use --etcd-cafile, --etcd-certfile or --etcd-keyfile without --etcd-servers; see km apiserver --help`,
	"apiserver --etcd-servers=x --etcd-cafile=missing":                           `cannot use --etcd-cafile: open missing: no such file or directory; see km apiserver --help`,
	"apiserver --etcd-servers=http://10.0.0.5:2379":                              "give https://10.0.0.5:2379, or set --insecure-etcd",
	"scheduler --mesos-master=x --etcd-servers=http://10.0.0.5:2379":             "give https://10.0.0.5:2379, or set --insecure-etcd",
	"etcd --name=a=b --advertise-address=10.0.0.5":                               "cannot use --name=a=b: give a name without",
	"etcd --advertise-address=here":                                              "cannot use --advertise-address=here: give an IP address of this machine",
	"etcd --advertise-address=10.0.0.5 --peer-port=0":                            "cannot use --peer-port=0: give a port from 1 to 65535",
	"etcd --advertise-address=10.0.0.5 --quota=1Mi":                              "cannot use --quota=1Mi: give 64Mi or more, such as 8Gi",
	"etcd --advertise-address=10.0.0.5 --tls-min-version=1":                      "cannot use --tls-min-version=1",
	"etcd join http://10.0.0.5:2379":                                             "cannot join http://10.0.0.5:2379: give the client URLs of members",
	"etcd status -o text":                                                        "cannot use --output=text",
	"framework list --mesos-master=ftp://x":                                      "--mesos-master ftp://x is neither",
	"framework teardown":                                                         "missing argument: ID; see km framework teardown --help",
	"snapshot save":                                                              "missing argument: FILE; see km snapshot save --help",
	"apiserver --minion-idle-timeout=-1s":                                        "--minion-idle-timeout=-1s",
	"apiserver --docker-host=tcp://192.0.2.1:2375":                               "cannot use --docker-host=tcp://192.0.2.1:2375 without TLS",
	"up --docker-host=tcp://192.0.2.1:2375":                                      "cannot use --docker-host=tcp://192.0.2.1:2375 without TLS",
	"apiserver --dns-replicas=-1":                                                "--dns-replicas=-1",
	"scheduler --mesos-master=":                                                  "--mesos-master=HOST:PORT",
	"--state-dir":                                                                `flag needs an argument: --state-dir; see km --help`,
	"scheduler --mesos-master=ftp://x":                                           "--mesos-master ftp://x is neither",
	"scheduler --mesos-master=x --mesos-principal=p --mesos-secret-file=missing": "missing",
	"scheduler --mesos-master=x --role-namespaces=spark":                         `cannot use --role-namespaces=spark: `,
	"scheduler --mesos-master=x --role-namespaces=spark=a":                       `--mesos-roles=* does not have that role; see km scheduler --help`,
	"scheduler --mesos-master=x --scheduler-algorithm=best":                      "cannot use --scheduler-algorithm=best:",
	"scheduler --mesos-master=x --kubeconfig=missing":                            `cannot use --kubeconfig: open missing: no such file or directory; see km scheduler --help`,
	"scheduler --mesos-master=x --tls-cert-file=missing":                         `give --tls-cert-file and --tls-private-key-file, or neither; see km scheduler --help`,
	"scheduler --mesos-master=x --km-path=km":                                    `--km-path "km" is not an absolute path; see km scheduler --help`,
	"scheduler --mesos-master=x --artifact-address=here":                         `cannot use --artifact-address=here: give host:port, such as 127.0.0.1:8080; see km scheduler --help`,
	"scheduler --mesos-master=x --cluster-name=a/b":                              `cannot use --cluster-name=a/b: give a name without a slash; see km scheduler --help`,
	"scheduler --mesos-master=x --drain-lead-time=2h":                            "--drain-lead-time must not be longer than --cordon-lead-time",
	"up --v1beta1-address=8080":                                                  `cannot use --v1beta1-address=8080: give host:port, such as 127.0.0.1:8080; see km up --help`,
	"up --v1beta1-insecure":                                                      `cannot use --v1beta1-insecure without --v1beta1-address; see km up --help`,
	"apiserver --v1beta1-insecure --v1beta1-address=:8080":                       `everybody who reaches it would be the administrator`,
	"apiserver --v1beta1-max-watches=0 --v1beta1-address=127.0.0.1:0":            `cannot use --v1beta1-max-watches=0: give a number from 1; see km apiserver --help`,
	"ui --address=8444":                                                          `cannot use --address=8444: give host:port, such as 127.0.0.1:8443; see km ui --help`,
	"ui --address=":                                                              `cannot use --address=: give host:port, such as 127.0.0.1:8444; see km ui --help`,
	"ui now":                                                                     `unexpected argument "now"; see km ui --help`,
	"up --ui-address=8443":                                                       `cannot use --ui-address=8443: give host:port, such as 127.0.0.1:8443; see km up --help`,
	"apiserver --ui-read-only":                                                   `cannot use --ui-read-only, --ui-cert-file or --ui-oidc-issuer-url without --ui-address; see km apiserver --help`,
	"up --ui-cert-file=x":                                                        `give --ui-cert-file and --ui-private-key-file, or neither; see km up --help`,
	"up --ui-oidc-issuer-url=http://x":                                           `cannot use --ui-oidc-issuer-url=http://x: give a URL that begins with https://; see km up --help`,
	"up --ui-oidc-issuer-url=https://x":                                          `cannot use --ui-oidc-issuer-url without --ui-oidc-client-id; see km up --help`,
	"up --ui-oidc-client-id=x":                                                   `cannot use --ui-oidc-client-id or --ui-oidc-ca-file without --ui-oidc-issuer-url; see km up --help`,
	"ui --oidc-issuer-url=https://x --oidc-client-id=a --oidc-ca-file=missing":   `cannot use --oidc-ca-file: `,
	"secrets rotate":                                                             `unknown command "rotate", did you mean`,
	"secrets rotate-key now":                                                     `unexpected argument "now"; see km secrets rotate-key --help`,
	"apiserver --kube-apiserver-arg=frob=1":                                      `cannot use --kube-apiserver-arg=frob=1: kube-apiserver has no flag --frob; see km apiserver --help`,
	"apiserver --kubelet-arg=frob=1":                                             `cannot use --kubelet-arg=frob=1: kubelet has no flag --frob; see km apiserver --help`,
	"up --registry-ca=harbor.example":                                            `cannot use --registry-ca=harbor.example: give HOST=FILE or HOST:PORT=FILE; see km up --help`,
	"apiserver --image-rewrite=docker.io=hub":                                    `cannot use --image-rewrite=docker.io=hub: "hub" stands for Docker Hub`,
	"apiserver --kubelet-arg=image-credential-provider-config=/c":                `use --image-credential-provider-config; see km apiserver --help`,
	"up --kube-proxy-arg=masquerade-all=perhaps":                                 `cannot use --kube-proxy-arg=masquerade-all=perhaps: strconv.ParseBool`,
	"up --kube-controller-manager-arg=master=x":                                  "cannot use --kube-controller-manager-arg=master=x: km knows the API server's address",
	"up --audit-policy-file=missing":                                             "cannot use --audit-policy-file: ",
	"up --tls-min-version=1.1":                                                   `cannot use --tls-min-version=1.1: use VersionTLS12 or VersionTLS13; see km up --help`,
	"dns --port=0":                                                               `cannot use --port=0: give a port from 1 to 65535; see km dns --help`,
	"dns --upstream=localhost":                                                   "cannot use --upstream=localhost",
	"dns --kubeconfig=missing":                                                   `cannot use --kubeconfig: open missing: no such file or directory; see km dns --help`,
	"local-mesos --agents=-1":                                                    "--agents=-1",
	"local-mesos --resources=many":                                               "--resources",
	"local-mesos --isolation=magic":                                              "--isolation",
	"minion --minion-idle-timeout=-5m":                                           "--minion-idle-timeout=-5m",
	"minion --proxy-mode=ipvs":                                                   "--proxy-mode=ipvs",
	"minion --static-pod-path=here":                                              "--static-pod-path=here",
	"clean-up":                                                                   `missing argument: CLUSTER ROOT-DIR NODE; see km clean-up --help`,
	"commit":                                                                     `missing argument: pod/NAME IMAGE | rc/NAME; see km commit --help`,
	"commit web":                                                                 `cannot commit "web": give pod/NAME or rc/NAME; see km commit --help`,
	"commit pod/web":                                                             `missing argument: IMAGE, such as registry.example:5000/web:20261130; see km commit --help`,
	"commit pod/web r.example/w:1 2":                                             `unexpected argument "2"; see km commit --help`,
	"commit pod/web web:1":                                                       `cannot push to image "web:1": give REGISTRY/NAME:TAG`,
	"commit pod/web r.e/w:1 --app=a":                                             `with a pod: they are for rc/NAME; see km commit --help`,
	"commit deployments/web":                                                     `cannot commit deployments/web: a Deployment makes all its pods from one template`,
	"commit sts/web":                                                             `cannot commit sts/web: a StatefulSet makes all its pods from one template`,
	"commit rc/web":                                                              `cannot commit rc/web without --`,
	"commit rc/web r.example/w:1":                                                `the images' names follow from --registry, --app and --component; see km commit --help`,
	"commit rc/web -n A":                                                         `cannot use --namespace=A: `,
	"commit rc/web --timeout=0s":                                                 `cannot use --timeout=0s: give a time such as 30m; see km commit --help`,
	"commit rc/web --registry=r.example --app=A --component=c":                   `cannot use --app=A: `,
	"commit rc/web --registry=r.example --app=a --component=c --ftp=http://x":    `cannot use --ftp=http://x: give ftp://, ftps:// or sftp://`,
	"commit rc/web --registry=r.example --app=a --component=c --ftp=ftp://a:b@x": `cannot use --ftp with a password in it`,
	"commit rc/web --registry=r.example --app=a --component=c --ftp-password-file=x": `without --ftp; see km commit --help`,
	"commit rc/web --registry=r.example --app=a --component=c --tag=a/b":             `--tag=a/b: cannot push to image`,
	"up --metrics-retention=always":                                                  `cannot use --metrics-retention=always: give a time such as 36h, 7d or 1y; see km up --help`,
	"up --metrics-port=0":                                                            "cannot use --metrics-port=0: ",
	"up --enable-aggregator-routing=false":                                           `unknown flag --enable-aggregator-routing`,
	"apiserver --bind-address=192.0.2.1 --enable-aggregator-routing=false":           "cannot use --enable-aggregator-routing=false with --metrics",
	"apiserver --bind-address=192.0.2.1 --cluster-name=a/b":                          "cannot use --cluster-name=a/b: give a name without a slash",
	"metrics --address=10.0.0.5 --port=0":                                            `cannot use --port=0: give a port from 1 to 65535; see km metrics --help`,
	"metrics":                                                                        `cannot use --address=: not an IP address; see km metrics --help`,
	"metrics qery up":                                                                `unknown command "qery", did you mean query?`,
	"metrics query":                                                                  `missing argument: PROMQL; see km metrics query --help`,
	"metrics query up -o yaml":                                                       `cannot use --output=yaml: give json; see km metrics query --help`,
	"metrics query up --time=noon":                                                   `cannot use --time=noon: give a time as in 2026-11-30T12:00:00Z; see km metrics query --help`,
}

// TestWrongCommandLinesStartNothing: exit status 2, one line that says what is wrong and where the help is.
func TestWrongCommandLinesStartNothing(t *testing.T) {
	checkWrongLines(t, wrongLines)
}

func checkWrongLines(t *testing.T, lines map[string]string) {
	t.Helper()
	for line, want := range lines {
		t.Run(line, func(t *testing.T) {
			status, out, errs := km(t, strings.Fields(line)...)
			if status != exitUsage || out != "" {
				t.Errorf("exit status %d, output %q", status, out)
			}
			if !strings.HasPrefix(errs, "km: ") || strings.Count(errs, "\n") != 1 || !strings.Contains(errs, want) || !strings.HasSuffix(errs, " --help\n") {
				t.Errorf("it says %swant %s", errs, want)
			}
		})
	}
}

// TestFailuresAreNoUsageErrors: a command line that was right, and a cluster that is not there.
func TestFailuresAreNoUsageErrors(t *testing.T) {
	for line, want := range map[string]string{
		"queue":                          "no cluster in",
		"ui":                             "or give --kubeconfig",
		"ui --kubeconfig=missing":        "cannot read the kubeconfig",
		"tasks":                          "no cluster in",
		"nodes -o json":                  "no cluster in",
		"offers -w":                      "no cluster in",
		"tasks -o table":                 "no cluster in",
		"assigner list":                  "no cluster in",
		"secrets rotate-key":             "km made none in",
		"logs web":                       "no cluster in",
		"node cut one":                   "no km up --nodes runs in",
		"commit pod/web r.example/web:1": "no cluster in",
		"commit rc/web --registry=r.example --app=a --component=c":        "no cluster in",
		"scheduler --mesos-master=127.0.0.1:1 --mesos-connect-timeout=1s": "start a control plane with km apiserver",
	} {
		t.Run(line, func(t *testing.T) {
			status, out, errs := km(t, strings.Fields(line)...)
			if status != exitFailed || out != "" || strings.Count(errs, "\n") != 1 || !strings.Contains(errs, want) || strings.Contains(errs, "--help") {
				t.Errorf("exit status %d, output %q, it says %q, want %q", status, out, errs, want)
			}
		})
	}
}

func TestFailureIsARecordIfTheLogIsJSON(t *testing.T) {
	status, out, errs := km(t, "--log-format=json", "tasks")
	var record struct{ Level, Msg string }
	if err := json.Unmarshal([]byte(errs), &record); err != nil || status != exitFailed || out != "" || record.Level != "error" || !strings.Contains(record.Msg, "no cluster in") {
		t.Errorf("exit status %d, output %q, it says %q (%v)", status, out, errs, err)
	}
}

func TestHelpIsAsked(t *testing.T) {
	for _, line := range []string{"", "--help", "help", "help up", "up --help", "node", "node --help", "help node cut", "assigner", "tasks --help", "version -h"} {
		status, out, errs := km(t, strings.Fields(line)...)
		if status != 0 || errs != "" || !strings.Contains(out, "Usage:") {
			t.Errorf("km %s: exit status %d, output %q, errors %q", line, status, out, errs)
		}
	}
}
