// Command km is k8sm: every role of a cluster in one program, a command a role. The commands are in contrib/cli.
package main

import (
	"os"

	"github.com/k8sm/k8sm/contrib/cli"
)

func main() { os.Exit(cli.Main()) }
