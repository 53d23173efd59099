// Command web is the program of the example pods: a web server, what loads one, and a command to run inside a pod.
//
//	web            serves on :8080 and logs each request to standard output
//	web whoami     prints what the page / says
//	web load URL   requests URL from several clients and prints how often it got which answer; --help shows its flags
//
// The server has three pages: / says who answers, /release says the RELEASE of its environment, and /work takes some milliseconds of
// processor time before it says done.
package main

import (
	"context"
	"crypto/pbkdf2"
	"crypto/sha256"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if len(os.Args) == 1 {
		if err := serve(ctx, ":8080"); err != nil {
			log.Fatal(err)
		}
		return
	}
	switch os.Args[1] {
	case "whoami":
		fmt.Print(whoami())
	case "load":
		os.Exit(loadCommand(ctx, os.Args[2:]))
	default:
		fmt.Fprintf(os.Stderr, "web: unknown command %q; the commands are whoami and load\n", os.Args[1])
		os.Exit(2)
	}
}

func whoami() string {
	hostname, err := os.Hostname()
	if err != nil {
		hostname = "somewhere"
	}
	return fmt.Sprintf("Hello from pod %s, process %d: Kubernetes on Mesos.\n", hostname, os.Getpid())
}

// release is what the pod's manifest says that this is.
func release() string {
	if r := os.Getenv("RELEASE"); r != "" {
		return r + "\n"
	}
	return "none\n"
}

// hashes is the work of a request to /work: about as much as to check a password at a login.
const hashes = 100_000

func work() (string, error) {
	if _, err := pbkdf2.Key(sha256.New, "a password", []byte("some salt"), hashes, sha256.Size); err != nil {
		return "", err
	}
	return "done\n", nil
}

// serve answers until ctx ends, and then lets requests under way finish.
func serve(ctx context.Context, address string) error {
	server := &http.Server{Addr: address, ReadHeaderTimeout: 5 * time.Second, Handler: pages()}
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

func pages() http.Handler {
	pages := http.NewServeMux()
	show := func(pattern string, page func() (string, error)) {
		pages.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			fmt.Printf("%s %s\n", r.Method, r.URL.Path)
			text, err := page()
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			fmt.Fprint(w, text)
		})
	}
	show("/", func() (string, error) { return whoami(), nil })
	show("/release", func() (string, error) { return release(), nil })
	show("/work", work)
	return pages
}
