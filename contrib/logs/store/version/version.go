// Package version takes back the flag "version" that VictoriaMetrics' libraries register: CoreDNS does so, too, and a program with both
// would end at once. Go initializes packages in the order of their import paths as far as their imports allow
// (https://go.dev/ref/spec#Program_initialization): CoreDNS imports packages that come after this one, which imports next to nothing.
//
// The package has no names. Import it for its effect.
package version

import (
	"flag"

	_ "github.com/VictoriaMetrics/VictoriaMetrics/lib/buildinfo" // registers the flag
)

func init() {
	all := flag.CommandLine
	flag.CommandLine = flag.NewFlagSet(all.Name(), all.ErrorHandling())
	all.VisitAll(func(f *flag.Flag) {
		if f.Name != "version" {
			flag.Var(f.Value, f.Name, f.Usage)
		}
	})
	flag.Usage = func() { // as package flag has it
		fallback := flag.CommandLine
		fallback.Usage = nil
		fallback.PrintDefaults()
	}
}
