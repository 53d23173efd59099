// Package nft answers, in place of the machine's nft, the one question that kube-proxy asks it before each of its transactions:
// which chains, sets and maps its table has (knftables' ListAll). nft reads all rules and the elements of each rule's map for that,
// one call to the kernel a map, and the kernel looks through all maps in each call: with 5,000 services it takes seconds. Names alone
// take milliseconds. All other command lines are the machine's nft's.
//
// kube-proxy executes the small program in minion/nft/program, which is embedded in km, under the name nft (see package embedded) for
// each sync, so this package must import only a few packages of the standard library. Start reading at Run.
package nft

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// notFound is the exit status of a shell for a command that is not there.
const notFound = 127

// Run is the main function of the small program: args are its own with its name, which must be the path it was executed by. It returns
// the exit status, or does not return, because the machine's nft takes this process over.
func Run(args []string, out, errs io.Writer) int {
	if family, table, ok := asksForNames(args[1:]); ok {
		if answer, err := list(families[family], family, table); err == nil {
			if _, err := out.Write(answer); err != nil {
				fmt.Fprintf(errs, "nft: cannot write the names: %v\n", err)
				return 1
			}
			return 0
		} // whatever is wrong, nft says it better
	}
	path, err := machines(args[0], os.Getenv("PATH"))
	if err == nil {
		err = syscall.Exec(path, append([]string{path}, args[1:]...), os.Environ())
	}
	fmt.Fprintf(errs, "nft: %v\n", err)
	return notFound
}

// asksForNames recognizes what knftables calls for its ListAll.
func asksForNames(args []string) (family, table string, ok bool) {
	if len(args) != 6 || args[0] != "--json" || args[1] != "--terse" || args[2] != "list" || args[3] != "table" {
		return "", "", false
	}
	family, table = args[4], args[5]
	return family, table, families[family] != 0 && plain(table)
}

// families are the names that nft has for the kernel's protocol families.
var families = map[string]byte{"inet": 1, "ip": syscall.AF_INET, "ip6": syscall.AF_INET6}

// machines finds the machine's nft: the first in the path that is in another directory than this program.
func machines(self, path string) (string, error) {
	own, err := os.Stat(filepath.Dir(self))
	if err != nil {
		return "", fmt.Errorf("cannot find this program's directory: %w", err)
	}
	for _, dir := range filepath.SplitList(path) {
		if at, err := os.Stat(dir); err != nil || os.SameFile(own, at) {
			continue
		}
		candidate := filepath.Join(dir, "nft")
		if info, err := os.Stat(candidate); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return candidate, nil
		}
	}
	return "", errors.New("this machine has no nft: install the package nftables")
}

// list returns nft's answer in JSON (libnftables-json(5)), without rules and contents. A table without any name is an error: nft knows
// whether it exists.
func list(family byte, familyName, table string) ([]byte, error) {
	names, err := read(family, table)
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("the table %s has nothing in it", table)
	}
	return render(familyName, table, names)
}

func render(family, table string, names []named) ([]byte, error) {
	out := []byte(`{"nftables": [{"metainfo": {"json_schema_version": 1}}, {"table": {"family": "` + family + `", "name": "` + table + `"}}`)
	for _, n := range names {
		if !plain(n.name) {
			return nil, fmt.Errorf("the name %q is none that nft gives", n.name)
		}
		out = append(out, `, {"`+n.kind+`": {"family": "`+family+`", "table": "`+table+`", "name": "`+n.name+`"}}`...)
	}
	return append(out, "]}\n"...), nil
}

// plain reports whether a text stands in JSON as it is.
func plain(text string) bool {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return text != ""
}
