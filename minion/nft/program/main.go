// Command nft stands before the machine's nft in the path of kube-proxy. See package nft.
//
// kube-proxy starts it several times a sync, so it links as little as possible.
package main

import (
	"os"

	"github.com/k8sm/k8sm/minion/nft"
)

func main() { os.Exit(nft.Run(os.Args, os.Stdout, os.Stderr)) }
