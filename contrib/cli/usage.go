package cli

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Exit statuses of km. The stock programs (kubelet, proxy, kubectl, etcdctl) have their own.
const (
	exitFailed = 1 // the command was understood, and failed
	exitUsage  = 2 // the command line is wrong, and nothing was started
)

// usageError says that the command line is wrong.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// usage makes the first error a usage error; nil if there is none.
func usage(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return usageError{err}
		}
	}
	return nil
}

// explainUsage has the command and those below it answer a wrong command line with a usage error that says what to do.
func explainUsage(cmd *cobra.Command) {
	cmd.SetFlagErrorFunc(explainFlag) // the commands below take it from here
	checkArguments(cmd)
}

// checkArguments makes what the command finds wrong before it runs a usage error: Args and PreRunE see the command line only.
func checkArguments(cmd *cobra.Command) {
	if cmd.HasSubCommands() && !cmd.Runnable() {
		cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		cmd.Args, cmd.DisableFlagsInUseLine = unknownCommand, true
	}
	if check := cmd.Args; check != nil && !cmd.DisableFlagParsing {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			err := check(cmd, args)
			var wrong usageError
			if err == nil || errors.As(err, &wrong) {
				return err
			}
			return usage(wrongArguments(cmd, args))
		}
	}
	if check := cmd.PreRunE; check != nil {
		cmd.PreRunE = func(cmd *cobra.Command, args []string) error { return usage(check(cmd, args)) }
	}
	for _, below := range cmd.Commands() {
		if below.Name() != "kubelet" && below.Name() != "proxy" {
			checkArguments(below)
		}
	}
}

// wrongArguments says in which way the arguments are not those that the command's Use line names.
func wrongArguments(cmd *cobra.Command, args []string) error {
	_, names, _ := strings.Cut(cmd.Use, " ")
	wanted := len(strings.Fields(names))
	if strings.Contains(names, "|") {
		wanted = 1
	}
	if len(args) < wanted {
		return fmt.Errorf("missing argument: %s", names)
	}
	return fmt.Errorf("unexpected argument %q", args[wanted])
}

// unknownCommand names the nearest of the commands below cmd.
func unknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := fmt.Errorf("unknown command %q", args[0])
	if near := nearest(cmd, args[0]); near != "" {
		err = fmt.Errorf("%w, did you mean %s?", err, near)
	}
	return usage(err)
}

// nearest is the command below cmd whose name is like the one that was typed; "" if there is none.
func nearest(cmd *cobra.Command, typed string) string {
	cmd.SuggestionsMinimumDistance = 2
	for _, name := range cmd.SuggestionsFor(typed) {
		return name
	}
	return ""
}

// explainFlag makes an error of the parser of flags one that says what to do. It returns others as they are.
func explainFlag(cmd *cobra.Command, err error) error {
	var (
		unknown *pflag.NotExistError
		invalid *pflag.InvalidValueError
		without *pflag.ValueRequiredError
		syntax  *pflag.InvalidSyntaxError
	)
	switch {
	case errors.As(err, new(usageError)):
		return err
	case errors.As(err, &unknown) && unknown.GetSpecifiedShortnames() == "":
		err = fmt.Errorf("unknown flag --%s", unknown.GetSpecifiedName())
		if near := nearestFlag(cmd, unknown.GetSpecifiedName()); near != "" {
			err = fmt.Errorf("%w, did you mean --%s?", err, near)
		}
	case errors.As(err, &invalid):
		err = fmt.Errorf("cannot use --%s=%s: %s", invalid.GetFlag().Name, invalid.GetValue(), wanted(invalid))
	case !errors.As(err, &unknown) && !errors.As(err, &without) && !errors.As(err, &syntax):
		return err
	}
	return usage(err)
}

// wanted says what a flag takes.
func wanted(e *pflag.InvalidValueError) string {
	switch e.GetFlag().Value.Type() {
	case "int":
		return "give a whole number"
	case "float64":
		return "give a number"
	case "duration":
		return "give a time such as 30s, 5m or 1h"
	case "bool", "boolfunc":
		return "give true or false"
	}
	return e.Unwrap().Error()
}

// nearestFlag is the flag of the command whose name is like the one that was typed. cobra knows what is alike only of commands,
// so flags become commands for it.
func nearestFlag(cmd *cobra.Command, typed string) string {
	var names cobra.Command
	add := func(flag *pflag.Flag) {
		if !flag.Hidden {
			names.AddCommand(&cobra.Command{Use: flag.Name, Run: func(*cobra.Command, []string) {}})
		}
	}
	cmd.LocalFlags().VisitAll(add)
	cmd.InheritedFlags().VisitAll(add)
	return nearest(&names, typed)
}

// logLevel is the value of --log-level.
type logLevel logrus.Level

func (l *logLevel) String() string { return logrus.Level(*l).String() }

func (*logLevel) Type() string { return "level" }

func (l *logLevel) Set(text string) error {
	level, err := logrus.ParseLevel(text)
	if err != nil {
		return errors.New("give debug, info, warn or error")
	}
	*l = logLevel(level)
	return nil
}

// named is what a flag says.
type named struct{ flag, value string }

// checkFiles refuses files that are not there. An empty name is no file.
func checkFiles(files ...named) error {
	for _, file := range files {
		if file.value == "" {
			continue
		}
		opened, err := os.Open(file.value)
		if err != nil {
			return fmt.Errorf("cannot use --%s: %w", file.flag, err)
		}
		_ = opened.Close() // it was only read
	}
	return nil
}

// checkAddresses refuses what is not "host:port". An empty one serves nothing.
func checkAddresses(addresses ...named) error {
	for _, address := range addresses {
		if address.value == "" {
			continue
		}
		_, port, err := net.SplitHostPort(address.value)
		if err == nil {
			_, err = strconv.ParseUint(port, 10, 16)
		}
		if err != nil {
			return fmt.Errorf("cannot use --%s=%s: give host:port, such as 127.0.0.1:8080", address.flag, address.value)
		}
	}
	return nil
}

// checkPorts refuses what is no port. 0 is one that the system chooses.
func checkPorts(ports map[string]int) error {
	for flag, port := range ports {
		if port < 0 || port > 65535 {
			return fmt.Errorf("cannot use --%s=%d: give a port from 0 to 65535", flag, port)
		}
	}
	return nil
}

// checkEtcd checks the flags that say how to reach an etcd.
func checkEtcd(servers []string, ca, cert, key string) error {
	if len(servers) == 0 && ca+cert+key != "" {
		return errors.New("cannot use --etcd-cafile, --etcd-certfile or --etcd-keyfile without --etcd-servers")
	}
	if (cert == "") != (key == "") {
		return errors.New("give --etcd-certfile and --etcd-keyfile, or neither")
	}
	return checkFiles(named{"etcd-cafile", ca}, named{"etcd-certfile", cert}, named{"etcd-keyfile", key})
}
