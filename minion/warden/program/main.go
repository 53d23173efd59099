// Command warden is the program that a node's warden waits in. A minion writes it to the node's directory and starts it
// there; it executes km when there is something to clean up. See package warden.
//
// One runs on each node for as long as there is a minion, so it links as little as possible.
package main

import (
	"os"

	"github.com/k8sm/k8sm/minion/warden"
)

func main() { os.Exit(warden.Wait(os.Args)) }
