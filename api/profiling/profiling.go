// Package profiling serves the Go profiles of a process (https://pkg.go.dev/net/http/pprof). They show what the program does and what
// holds its memory, so a server must let only administrators read them.
package profiling

import (
	"net/http"
	"net/http/pprof"
)

// Path begins the paths of all profiles.
const Path = "/debug/pprof/"

// Handler serves the profiles below Path, for `go tool pprof`.
func Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+Path, pprof.Index)
	mux.HandleFunc("GET "+Path+"cmdline", pprof.Cmdline)
	mux.HandleFunc("GET "+Path+"profile", pprof.Profile)
	mux.HandleFunc("GET "+Path+"symbol", pprof.Symbol)
	mux.HandleFunc("GET "+Path+"trace", pprof.Trace)
	return mux
}
