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

	"github.com/k8sm/k8sm/api/state"
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

// explainUsage makes the command and its subcommands return a usage error with the remedy for a wrong command line.
func explainUsage(cmd *cobra.Command) {
	cmd.SetFlagErrorFunc(explainFlag) // subcommands inherit it
	checkArguments(cmd)
}

// checkArguments turns errors of Args and PreRunE into usage errors: both see only the command line.
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

// wrongArguments explains how the arguments differ from the command's Use line.
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

// unknownCommand returns an error that suggests the nearest subcommand of cmd.
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

// nearest returns the subcommand of cmd with the most similar name, or "".
func nearest(cmd *cobra.Command, typed string) string {
	for cmd.SuggestionsMinimumDistance = 1; cmd.SuggestionsMinimumDistance <= 2; cmd.SuggestionsMinimumDistance++ {
		for _, name := range cmd.SuggestionsFor(typed) {
			return name
		}
	}
	return ""
}

// explainFlag adds the remedy to an error of the flag parser. It returns other errors unchanged.
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

// wanted says which values a flag accepts.
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

// nearestFlag returns the flag with the most similar name, or "". cobra suggests only commands, so the flags become commands here.
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

// named is a flag and its value.
type named struct{ flag, value string }

// checkFiles checks that the files can be opened. It skips empty names.
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

// checkAddresses checks that each address is "host:port" or empty.
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

// checkPorts checks port numbers. 0 means any free port.
func checkPorts(ports map[string]int) error {
	for flag, port := range ports {
		if port < 0 || port > 65535 {
			return fmt.Errorf("cannot use --%s=%d: give a port from 0 to 65535", flag, port)
		}
	}
	return nil
}

// checkEtcd checks the flags of an etcd's address and certificates.
func checkEtcd(etcd state.Config, insecure bool) error {
	ca, cert, key := etcd.CAFile, etcd.CertFile, etcd.KeyFile
	if len(etcd.Endpoints) == 0 && ca+cert+key != "" {
		return errors.New("cannot use --etcd-cafile, --etcd-certfile or --etcd-keyfile without --etcd-servers")
	}
	if (cert == "") != (key == "") {
		return errors.New("give --etcd-certfile and --etcd-keyfile, or neither")
	}
	if err := checkFiles(named{"etcd-cafile", ca}, named{"etcd-certfile", cert}, named{"etcd-keyfile", key}); err != nil {
		return err
	}
	return state.CheckEndpoints(etcd.Endpoints, insecure)
}
