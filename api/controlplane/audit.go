package controlplane

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/apiserver/pkg/audit/policy"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/nodeslices"
)

// Audit configures the API server's audit log
// (https://kubernetes.io/docs/tasks/debug/debug-cluster/audit/).
type Audit struct {
	// PolicyFile says which requests are logged; empty means km's own policy.
	PolicyFile string
	// LogPath is the log's file, relative to the state directory. "-" is standard output, "" turns the log off.
	LogPath string
	// MaxAge is in days, MaxSize in megabytes. A file that reaches it is renamed, and MaxBackups such files are kept.
	MaxAge, MaxBackups, MaxSize int
}

func (a *Audit) addFlags(fs *pflag.FlagSet) {
	fs.StringVar(&a.PolicyFile, "audit-policy-file", "", "audit policy `file` of the API server (default: writes, and what is done with secrets, without bodies)")
	fs.StringVar(&a.LogPath, "audit-log-path", "log/audit.log", "`file` of the API server's audit log, relative to --state-dir; \"-\" means standard output, and \"\" no audit log")
	fs.IntVar(&a.MaxAge, "audit-log-maxage", 30, "how many `days` old files of the audit log are kept")
	fs.IntVar(&a.MaxBackups, "audit-log-maxbackup", 10, "how many old files of the audit log are kept")
	fs.IntVar(&a.MaxSize, "audit-log-maxsize", 100, "size in `megabytes` at which the audit log begins a new file")
}

// check finds errors before anything starts.
func (a Audit) check() error {
	if a.PolicyFile == "" {
		return nil
	}
	if a.LogPath == "" {
		return errors.New(`cannot use --audit-policy-file with --audit-log-path="": give a file, or - for standard output`)
	}
	if _, err := policy.LoadPolicyFromFile(a.PolicyFile); err != nil {
		return fmt.Errorf("cannot use --audit-policy-file: %w", err)
	}
	return nil
}

// auditFlags adds the flags of kube-apiserver.
func (c Config) auditFlags(f flags) {
	if c.Audit.LogPath == "" {
		return
	}
	f["audit-policy-file"], f["audit-log-path"] = c.Audit.PolicyFile, c.Audit.LogPath
	if c.Audit.PolicyFile == "" {
		f["audit-policy-file"] = c.StateDir.AuditPolicy()
	}
	if c.Audit.LogPath != "-" {
		f["audit-log-path"] = c.StateDir.In(c.Audit.LogPath)
	}
	f["audit-log-maxage"], f["audit-log-maxbackup"] = strconv.Itoa(c.Audit.MaxAge), strconv.Itoa(c.Audit.MaxBackups)
	f["audit-log-maxsize"] = strconv.Itoa(c.Audit.MaxSize)
}

// writeAuditPolicy writes our policy at each start: a new version may have another.
func (c Config) writeAuditPolicy() error {
	data, err := json.MarshalIndent(auditPolicy(), "", "  ")
	if err != nil {
		return fmt.Errorf("cannot encode the audit policy: %w", err)
	}
	return c.StateDir.WriteAuditPolicy(append(data, '\n'))
}

// auditPolicy logs who did what to which object, and never a body: a secret must not be in a log. It leaves out what the parts of a
// cluster do all the time: leases, events, nodes' states and slices, health, and their reads of what is no secret. The first rule that matches
// decides.
func auditPolicy() auditv1.Policy {
	components := []string{"system:kube-controller-manager", "system:apiserver", api.SchedulerUser, api.DNSUser, api.MetricsUser, api.LogsUser}
	groups := []string{api.NodesGroup, "system:serviceaccounts:" + metav1.NamespaceSystem}
	none := func(r auditv1.PolicyRule) auditv1.PolicyRule {
		r.Level = auditv1.LevelNone
		return r
	}
	resources := func(group string, names ...string) []auditv1.GroupResources {
		return []auditv1.GroupResources{{Group: group, Resources: names}}
	}
	read := []string{"get", "list", "watch"}
	return auditv1.Policy{
		TypeMeta:   metav1.TypeMeta{APIVersion: auditv1.SchemeGroupVersion.String(), Kind: "Policy"},
		OmitStages: []auditv1.Stage{auditv1.StageRequestReceived},
		Rules: []auditv1.PolicyRule{
			none(auditv1.PolicyRule{NonResourceURLs: []string{"/healthz*", "/livez*", "/readyz*"}}),
			none(auditv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: []string{"/version", "/openapi*", "/api", "/api/*", "/apis", "/apis/*"}}),
			none(auditv1.PolicyRule{Resources: append(resources("", "events"), resources("events.k8s.io", "events")...)}),
			none(auditv1.PolicyRule{Users: components, Resources: resources("coordination.k8s.io", "leases")}),
			none(auditv1.PolicyRule{UserGroups: groups, Resources: resources("coordination.k8s.io", "leases")}),
			none(auditv1.PolicyRule{UserGroups: []string{api.NodesGroup}, Verbs: []string{"patch", "update"}, Resources: resources("", "nodes/status")}),
			none(auditv1.PolicyRule{Users: []string{api.SchedulerUser}, Namespaces: []string{nodeslices.Namespace}, Resources: resources("", "configmaps")}),
			{Level: auditv1.LevelMetadata, Verbs: []string{"get", "list", "create", "update", "patch", "delete", "deletecollection"},
				Resources: append(resources("", "secrets", "serviceaccounts/token"), resources("authentication.k8s.io", "*")...)},
			none(auditv1.PolicyRule{Users: components, Verbs: read}),
			none(auditv1.PolicyRule{UserGroups: groups, Verbs: read}),
			none(auditv1.PolicyRule{Users: components, Verbs: []string{"create"}, Resources: resources("authorization.k8s.io", "*")}),
			none(auditv1.PolicyRule{UserGroups: groups, Verbs: []string{"create"}, Resources: resources("authorization.k8s.io", "*")}),
			{Level: auditv1.LevelMetadata},
		},
	}
}
