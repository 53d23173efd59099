package run

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/scheduler"
)

// Artifact is the archive km.tar.gz, which agents fetch. It contains the km program.
type Artifact struct {
	URL    string
	SHA256 string // of the program, in hexadecimal
	// BLAKE2b is another hash of it, which agents check instead if they have b2sum: it takes a quarter of the processor time. "" if it is not
	// known.
	BLAKE2b string
}

// minionCommand returns the km command of the executor. It has the flags that the minion needs before it can reach the cluster.
func minionCommand(engine scheduler.Engine) string {
	if engine.Host == "" {
		return "minion"
	}
	command := "minion --" + api.MinionEngineFlag + "=" + shellQuote(engine.Host)
	if engine.CertPath != "" {
		command += " --" + api.MinionEngineCertPathFlag + "=" + shellQuote(engine.CertPath)
	}
	return command
}

// command returns a shell command that checks the hash of the fetched program, because Mesos does not, and runs it. If the
// fetcher's cache is full, the archive is still in the sandbox (fetchBypassingCache in Mesos's src/launcher/fetcher.cpp), so the
// command removes it. The program removes itself from the sandbox after it has started.
func (a Artifact) command(minion string) string {
	wrong := fmt.Sprintf("the km that was fetched from %s is not the scheduler's: its SHA-256 is not %s. "+
		"Something on the way changes it, or the agent's fetcher cache is broken", a.URL, a.SHA256)
	return fmt.Sprintf("rm -f km.tar.gz; { %s; } >&2 || { echo %s >&2; exit 1; }; "+
		"test -x km || { echo %s >&2; exit 1; }; exec ./km %s", a.check(), shellQuote(wrong), shellQuote(noExec), minion)
}

// check returns the shell command that fails if the file km is not the program. coreutils before 8.26 have no b2sum.
func (a Artifact) check() string {
	check := fmt.Sprintf("echo '%s  km' | sha256sum -c -", a.SHA256)
	if a.BLAKE2b == "" {
		return check
	}
	return fmt.Sprintf("if command -v b2sum >/dev/null; then echo '%s  km' | b2sum -c -; else %s; fi", a.BLAKE2b, check)
}

// noExec is the error for a sandbox that is mounted with noexec. test -x detects that: access(2) honors noexec.
const noExec = "km cannot be executed in the sandbox: the file system of the Mesos agent's --work_dir is mounted with noexec, or for this user. " +
	"Mount it with exec, give the agent another --work_dir, or install km on the agents and give --km-path to km scheduler"

// reachable returns an error if an agent at this address certainly cannot fetch the archive. The address is "ip:port", or "" if
// it is unknown.
func (a Artifact) reachable(agent string) error {
	from, err := url.Parse(a.URL)
	if err != nil {
		return fmt.Errorf("cannot parse the URL of km: %w", err)
	}
	served, _ := netip.ParseAddr(from.Hostname())
	there, err := netip.ParseAddrPort(agent)
	if err == nil && !there.Addr().IsLoopback() && (from.Hostname() == "localhost" || served.IsLoopback()) {
		return fmt.Errorf("km is served at %s, which the agent at %s cannot reach: give --artifact-address=HOST:PORT with an address that it can, "+
			"or --km-path of a km that is installed there", a.URL, agent)
	}
	return nil
}

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
