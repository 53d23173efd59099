package mesos

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"

	"github.com/mesos/mesos-go/api/v1/lib/httpcli/apierrors"

	"github.com/k8sm/k8sm/scheduler/run"
)

// ErrRemoved is the error for a framework that Mesos has removed for good: no one can use its id again.
var ErrRemoved = errors.New("the Mesos master has removed the framework and all its tasks: it was torn down, or no scheduler was " +
	"connected for longer than --mesos-failover-timeout")

// ErrRefused is the error for a subscription that Mesos will never accept as it is.
var ErrRefused = errors.New("the Mesos master refuses the framework")

// remedies say what to do about a refusal, by words in it; the first match counts. The words come from Master::validateFramework and
// checkSubscribeAuthorization (src/master/master.cpp), validation::framework and validation::scheduler::call
// (src/master/validation.cpp), and from Go's HTTP servers as proxies of a master. A remedy that ends in ": " goes on with anew.
var remedies = []struct{ words, remedy string }{
	{"principal is not allowed", "give the --mesos-principal that it was first given (none if it was none), with its --mesos-secret-file, " +
		"or make a new framework: "},
	{"'FrameworkInfo.user'", "give the --mesos-user that it was first given, or make a new framework: "},
	{"'FrameworkInfo.checkpoint'", "make a new framework: "},
	{"Invalid framework ID", "the stored id is damaged: "},
	{"are not present in the master's --roles", "give other --mesos-roles, or the master these by its --roles"},
	{"'FrameworkInfo.roles'", "correct --mesos-roles"},
	{"--root_submissions", "start the master with --root_submissions: minions need root"},
	{"Not authorized", "let the master's --acls have register_frameworks for this principal and these roles, or give another --mesos-principal or --mesos-roles"},
	{"failover_timeout", "give another --mesos-failover-timeout"},
	{"Authenticated principal", "give the --mesos-principal that the master knows these credentials by"},
	{"HTTPS server", "give --mesos-master=https://HOST:PORT, or --mesos-ca-file with zk://"},
}

// refusal explains an ERROR event, which is always final.
func (c *connection) refusal(message string) error {
	switch message {
	case "Framework has been removed":
		return fmt.Errorf("%w; to register as a new one, forget its id and start again: %s", ErrRemoved, c.master.cfg.Forget)
	case "Framework failed over":
		return run.ErrReplaced
	}
	return c.withRemedy(errors.New(message))
}

// withRemedy adds the remedy to a refusal.
func (c *connection) withRemedy(why error) error {
	for _, r := range remedies {
		if !strings.Contains(why.Error(), r.words) {
			continue
		}
		remedy := r.remedy
		if strings.HasSuffix(remedy, ": ") {
			remedy += c.anew()
		}
		return fmt.Errorf("%w: %w; %s", ErrRefused, why, remedy)
	}
	return fmt.Errorf("%w: %w", ErrRefused, why)
}

// anew says how to register a new framework while the old one exists
// (https://mesos.apache.org/documentation/latest/endpoints/master/teardown/).
func (c *connection) anew() string {
	master := strings.TrimSuffix(c.endpoint, schedulerPath)
	return fmt.Sprintf("end the old one with all its tasks (curl -d frameworkId=%s %s/master/teardown, as its principal), forget its id, and start again: %s",
		c.id, master, c.master.cfg.Forget)
}

// explain adds the remedy to the error of a SUBSCRIBE. An error is final if the master would refuse again.
func (c *connection) explain(err error) error {
	switch {
	case apierrors.CodeNotAuthenticated.Matches(err) && c.master.secret == "":
		return finalError{fmt.Errorf("the Mesos master at %s requires authentication: give --mesos-principal and --mesos-secret-file: %w", c.endpoint, err)}
	case apierrors.CodeNotAuthenticated.Matches(err):
		return finalError{fmt.Errorf("the Mesos master at %s does not know principal %s (--mesos-principal) with the secret in --mesos-secret-file: %w",
			c.endpoint, c.master.cfg.Principal, err)}
	case apierrors.CodeMalformedRequest.Matches(err), apierrors.CodeUnsubscribed.Matches(err):
		return finalError{c.withRemedy(err)}
	case strings.HasPrefix(c.endpoint, "http:") && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)):
		return fmt.Errorf("%w; if the master has LIBPROCESS_SSL_ENABLED, give --mesos-master=https://HOST:PORT, or --mesos-ca-file with zk://", err)
	}
	return err
}
