// Package figures turns what a node measures into open-falcon's metrics: the usage of its pods, as the container runtime has it, their
// states, as the API server has them, and the figures of the machine in /proc and /sys.
//
// The names of the machine's metrics, their types and their units are those of open-falcon's own agent, so that graphs and alarms go on
// where a minion takes its place. No tag has an id of a container: each restart would begin a new series.
//
// It connects to nothing. Start reading at Pods.Elements and Machine.Elements.
package figures
