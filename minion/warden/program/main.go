// Command warden waits until a node has been without a minion for too long, and then executes km to clean up. A minion starts it
// from a file in the node's directory. See package warden.
//
// One runs on each node as long as its minion, so it links as little as possible.
package main

import (
	"os"

	"github.com/k8sm/k8sm/minion/warden"
)

func main() { os.Exit(warden.Wait(os.Args)) }
