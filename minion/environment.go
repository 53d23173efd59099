package minion

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// An agent may give its executors no environment at all, or its own (executorEnvironment of Mesos's src/slave/slave.cpp).
const (
	usualPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	usualHome = "/root"
)

// proxies are the variables that lead programs to a proxy. All that a minion and its children call is in the cluster or on this
// machine; images are pulled by Docker Engine, which has an environment of its own.
var proxies = []string{"http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy"}

// settleEnvironment gives this process and its children what they rely on, and takes away what would lead them astray. It has to
// be called before the first call over HTTP.
func settleEnvironment() error {
	for name, value := range map[string]string{"PATH": usualPath, "HOME": usualHome} {
		if os.Getenv(name) != "" {
			continue
		}
		if err := os.Setenv(name, value); err != nil {
			return fmt.Errorf("cannot set %s: %w", name, err)
		}
	}
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if !slices.Contains(proxies, strings.ToLower(name)) {
			continue
		}
		if err := os.Unsetenv(name); err != nil {
			return fmt.Errorf("cannot do without %s: %w", name, err)
		}
	}
	return nil
}
