package chrome

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// blindName is what this program is called when it is to become Chromium.
const blindName = "chromium-blind"

// A Chromium that sees an address of the machine come or go ends all requests that are under way (net::ERR_NETWORK_CHANGED). Pods, and
// tests that run at the same time, have interfaces that come and go all the time. So Chromium gets no socket that tells of them: without
// one, it takes the machine to be online. How the page copes is tested by package ui, which loses requests on purpose.
func init() {
	if len(os.Args) > 1 && os.Args[0] == blindName {
		fmt.Fprintln(os.Stderr, "cannot start chromium:", becomeBlind(os.Args[1], os.Args[1:]))
		os.Exit(1)
	}
}

// blind makes a command start by way of this program.
func blind(cmd *exec.Cmd) {
	cmd.Args = append([]string{blindName, cmd.Path}, cmd.Args[1:]...)
	cmd.Path = "/proc/self/exe"
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

// becomeBlind runs a program instead of this one. Neither it nor its children get netlink sockets about interfaces.
func becomeBlind(path string, args []string) error {
	runtime.LockOSThread()
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	unless := func(value uint32, skip uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: value, Jf: skip}
	}
	answer := func(what uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: what} }
	// The offsets are those of struct seccomp_data: the call, and the lower halves of its first and third argument.
	filter := []unix.SockFilter{
		load(0), unless(unix.SYS_SOCKET, 5), load(16), unless(unix.AF_NETLINK, 3), load(32), unless(unix.NETLINK_ROUTE, 1),
		answer(unix.SECCOMP_RET_ERRNO | uint32(unix.EAFNOSUPPORT)), answer(unix.SECCOMP_RET_ALLOW),
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0); err != nil {
		return err
	}
	return syscall.Exec(path, args, os.Environ())
}
