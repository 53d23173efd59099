// Command keeper waits inside a Mesos container for a minion that runs outside of it. See package keeper.
//
// One runs beside each minion that has left a PID namespace, so it links as little as possible.
package main

import (
	"os"

	"github.com/k8sm/k8sm/minion/keeper"
)

func main() { os.Exit(keeper.Keep(os.Args)) }
