// Command pause is the program of a sandbox container. It holds the pod's namespaces and waits. As process 1 of a shared PID
// namespace it reaps orphans of the pod's containers
// (https://kubernetes.io/docs/tasks/configure-pod-container/share-process-namespace/). It exits at once on SIGTERM or SIGINT.
//
// It runs once per pod, so it imports as little as possible.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGCHLD)
	reap() // what ended before signals were heard
	for s := range signals {
		if s != syscall.SIGCHLD {
			return
		}
		reap()
	}
}

// reap collects every exited child: one SIGCHLD may stand for several.
func reap() {
	for {
		pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if pid <= 0 || err != nil {
			return
		}
	}
}
