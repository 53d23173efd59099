// Command web is the program of the example pod: a web server that says who it is, and a command to run inside the pod.
//
//	web          serves on :8080 and logs each request to standard output
//	web whoami   prints what the page says
package main

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 1 {
		if os.Args[1] != "whoami" {
			fmt.Fprintf(os.Stderr, "web: unknown command %q; the only one is whoami\n", os.Args[1])
			os.Exit(2)
		}
		fmt.Print(whoami())
		return
	}
	if err := serve(":8080"); err != nil {
		log.Fatal(err)
	}
}

func whoami() string {
	hostname, err := os.Hostname()
	if err != nil {
		hostname = "somewhere"
	}
	return fmt.Sprintf("Hello from pod %s, process %d: Kubernetes on Mesos.\n", hostname, os.Getpid())
}

// serve answers until SIGTERM or SIGINT, and then lets requests under way finish.
func serve(address string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	server := &http.Server{Addr: address, ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(page)}
	failed := make(chan error, 1)
	go func() { failed <- server.ListenAndServe() }()
	fmt.Printf("serving on %s\n", address)
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		fmt.Println("asked to stop")
		last, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		return server.Shutdown(last)
	}
}

func page(w http.ResponseWriter, r *http.Request) {
	fmt.Printf("%s %s\n", r.Method, r.URL.Path)
	fmt.Fprint(w, whoami())
}
