package falcon

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// Target is where metrics go: either URL or Addresses is set.
type Target struct {
	// URL is where an agent or a transfer takes elements by HTTP.
	URL string
	// Addresses are transfers, as HOST:PORT. Any of them will do.
	Addresses []string
}

// ParseTarget parses http://HOST:1988/v1/push (an agent) or tcp://HOST:8433,HOST:8433 (transfers).
func ParseTarget(text string) (Target, error) {
	scheme, rest, ok := strings.Cut(text, "://")
	switch {
	case ok && scheme == "tcp":
		return parseAddresses(rest)
	case ok && (scheme == "http" || scheme == "https"):
		return parseURL(text)
	}
	return Target{}, fmt.Errorf("%q begins with neither http:// nor tcp://: give an agent's http://HOST:1988/v1/push, or transfers' tcp://HOST:8433,HOST:8433", text)
}

func parseAddresses(list string) (Target, error) {
	var t Target
	for address := range strings.SplitSeq(list, ",") {
		address = strings.TrimPrefix(address, "tcp://")
		host, port, err := net.SplitHostPort(address)
		if err != nil || host == "" || !validPort(port) {
			return Target{}, fmt.Errorf("%q is not HOST:PORT: give transfers as tcp://HOST:8433,HOST:8433", address)
		}
		if strings.ContainsAny(host, "/@ \t") {
			return Target{}, fmt.Errorf("%q is not a host: give transfers as tcp://HOST:8433,HOST:8433, without a path or password", host)
		}
		t.Addresses = append(t.Addresses, address)
	}
	return t, nil
}

func parseURL(text string) (Target, error) {
	u, err := url.Parse(text)
	if err != nil {
		return Target{}, errors.Unwrap(err) // without the URL
	}
	switch {
	case u.Hostname() == "" || u.Port() != "" && !validPort(u.Port()):
		return Target{}, fmt.Errorf("%q is not HOST:PORT: give an agent as http://HOST:1988/v1/push", u.Host)
	case u.User != nil:
		return Target{}, errors.New("the URL has a user or password, which all nodes could read: open-falcon takes none")
	case u.Path == "" || u.Path == "/":
		return Target{}, errors.New("the URL has no path: give an agent's http://HOST:1988/v1/push, or a transfer's http://HOST:6060/api/push")
	case u.Fragment != "":
		return Target{}, errors.New("the URL has a #fragment: leave it out")
	}
	return Target{URL: u.String()}, nil
}

func validPort(text string) bool {
	port, err := strconv.ParseUint(text, 10, 16)
	return err == nil && port > 0
}

// String returns the target as ParseTarget takes it.
func (t Target) String() string {
	if t.URL != "" {
		return t.URL
	}
	return "tcp://" + strings.Join(t.Addresses, ",")
}
