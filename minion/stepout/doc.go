// Package stepout has a minion run in the machine, and not in the container that Mesos builds around its executor. What a
// minion does is the machine's: Docker Engine binds what the machine has mounted, its PIDs are the machine's, and a kubelet
// reads devices that the container is denied. What Mesos accounts and ends an executor by stays as it is: all cgroups but that
// of devices, and the network namespace that the agent runs in.
//
// The machine is where Docker Engine is. Its mount namespace is that of the process that listens on the Engine's socket, if
// that is another than process 1 (which listens in its place where systemd starts the Engine) and can be seen, else that of
// process 1. A mount namespace is entered, and the program executed again in it (out.go). A PID namespace cannot be left
// (setns(2): only descendants can be entered), so the Engine starts a container in the machine's PID namespace which starts
// the minion and ends; the process that Mesos started stays as its keeper (springboard.go, board.go, package keeper). Of
// cgroup v1, the devices cgroup is left (cgroups.go). Of cgroup v2 there is only one cgroup, which Mesos ends and accounts
// the container by and attaches its filter of devices to (src/slave/containerizer/device_manager/device_manager.cpp and
// linux_launcher.cpp there): it is not left.
//
// Start reading at Out.
package stepout
