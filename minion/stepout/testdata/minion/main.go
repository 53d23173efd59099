// Command minion is what of a minion steps out of a container: a test builds and runs it. It tells where it is in the file
// report.json of its sandbox, and ends with status 7 when it is asked to end.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/k8sm/k8sm/minion/keeper"
	"github.com/k8sm/k8sm/minion/stepout"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == stepout.Command {
		if err := stepout.Board(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	link, err := keeper.Adopt()
	if err == nil {
		dir, _ := os.Getwd()
		err = stepout.Out(context.Background(), stepout.Config{
			DockerHost: os.Getenv("ENGINE"), Container: filepath.Base(dir), Sandbox: dir, Outside: link != nil,
		})
	}
	report(err)
	fmt.Println("the minion is here")
	<-signals
	link.Ending(7)
	os.Exit(7)
}

func report(err error) {
	facts := map[string]string{"process": fmt.Sprint(os.Getpid()), "args": fmt.Sprint(os.Args[1:]), "secret": os.Getenv("SECRET")}
	if err != nil {
		facts["error"] = err.Error()
	}
	for _, name := range []string{"mnt", "pid", "net"} {
		facts[name], _ = os.Readlink("/proc/self/ns/" + name)
	}
	cgroups, _ := os.ReadFile("/proc/self/cgroup")
	facts["cgroups"] = string(cgroups)
	facts["dir"], _ = os.Getwd()
	kmsg, openErr := os.Open("/dev/kmsg")
	facts["kmsg"] = fmt.Sprint(openErr)
	_ = kmsg.Close()
	text, _ := json.Marshal(facts)
	_ = os.WriteFile("report.new", text, 0o600)
	_ = os.Rename("report.new", "report.json")
}
