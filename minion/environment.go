package minion

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// An agent may give its executors an empty environment, or its own (executorEnvironment in src/slave/slave.cpp of Mesos).
const (
	usualPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	usualHome = "/root"
)

// proxies are the variables that configure an HTTP proxy. A minion and its children call only the cluster and this machine; Docker
// Engine, which pulls images, has an environment of its own.
var proxies = []string{"http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy"}

// settleEnvironment sets the variables that this process and its children need, and unsets those for proxies. Call it before the
// first HTTP request.
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
			return fmt.Errorf("cannot unset %s: %w", name, err)
		}
	}
	return nil
}
