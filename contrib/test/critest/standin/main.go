// Command standin plays the programs of the images that critest asks for and that can be had from an image registry only:
// two web servers and a program that tells its user.
//
//	standin serve PORT [WORDS]   prints WORDS and serves a page, with its pid where nginx would write it
//	standin uid                  prints its effective user
package main

import (
	"fmt"
	"net/http"
	"os"
	"time"
)

// pidFile is where critest looks for nginx's pid.
const pidFile = "/var/run/nginx.pid"

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "standin: %v\n", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 1 && args[0] == "uid":
		_, err := fmt.Printf("Effective uid: %d\n", os.Geteuid())
		return err
	case len(args) >= 2 && args[0] == "serve":
		for _, words := range args[2:] {
			fmt.Println(words)
		}
		if err := os.WriteFile(pidFile, fmt.Appendln(nil, os.Getpid()), 0o644); err != nil {
			return err
		}
		page := func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "welcome") }
		server := &http.Server{Addr: ":" + args[1], Handler: http.HandlerFunc(page), ReadHeaderTimeout: 10 * time.Second}
		return server.ListenAndServe()
	default:
		return fmt.Errorf("cannot understand %q: usage: standin serve PORT [WORDS] | standin uid", args)
	}
}
