// Package stepout moves a minion out of the container that Mesos builds around its executor, into the machine's namespaces. A minion
// needs them: Docker Engine binds the machine's mounts, its PIDs are the machine's, and a kubelet reads devices that the container
// may not. What Mesos uses to account for an executor and to kill it stays: all cgroups except devices, and the agent's network
// namespace.
//
// "The machine" is where Docker Engine runs. Its mount namespace is that of the process that listens on the Engine's socket, if that
// process is visible and is not process 1 (where systemd starts the Engine, it listens in its place); else that of process 1. The
// minion enters the mount namespace and executes the program again (out.go). A process cannot leave its PID namespace (setns(2):
// only descendants can be entered). So the Engine starts a container in the machine's PID namespace, which starts the minion and
// exits; the process that Mesos started stays as its keeper (springboard.go, board.go, package keeper). With cgroup v1, the minion
// leaves the devices cgroup (cgroups.go). With cgroup v2 there is only one cgroup, by which Mesos accounts for the container and
// kills it, and to which it attaches its device filter (src/slave/containerizer/device_manager/device_manager.cpp,
// linux_launcher.cpp): the minion stays in it.
//
// Start reading at Out.
//
// Start reading at Out.
package stepout
