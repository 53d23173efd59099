// Package logs ships what the containers of a node's pods wrote to the cluster's log stores, each line exactly once to each of them.
// Package api/logs has the protocol, and what becomes of a line on the way.
//
// It reads the files that the container runtime writes in CRI's format and the kubelet rotates, below one directory; a Component writes
// the log of a component of the node in the same way. Each file gets a hard link in a spool as soon as it is seen, so that it stays when
// the kubelet deletes it. A file is known by its inode and a fingerprint of its first line. Nothing is read through a symbolic link, and
// only plain files without other names are: a pod that gets hold of its log's directory cannot have other files shipped.
//
// Package minion/cri only appends lines, each file by one process. After a crash it cuts off the line that it had not finished, which
// was not shipped: only complete lines are, until a file is final. The kubelet rotates by renaming, and nobody truncates. If an operator
// does so nevertheless, the file is another log from then on, and what had not been shipped of it is counted as lost. A file is known by
// the time in its first line, so this is seen even if it has the same size again, or more.
//
// What was read is not kept in memory. A file is read from the first byte that is in no entry; ranges beyond it that are in entries
// are left out. So there is one way to go on after anything: take the commit, and what the store says that it holds. The commit moves
// when the store has what was sent on its disk. Positions are saved once a second at most, by rename and fsync; they may be old, or
// lost. A file of the spool is removed when the saved positions say that all of it is on the store's disk.
//
// While the store is away, the spool keeps deleted files within limits. What must be dropped goes oldest first. It is counted, logged,
// and told to the store by an entry in its place.
//
// The files, from the disk to the store:
//
//	stores.go               one Run for each store
//	run.go, watch.go        the loop, and what wakes it
//	directory.go            the directories of containers
//	discover.go, spool.go   finding files, and keeping them by links
//	chain.go                the files of a container's run, in order
//	turn.go, window.go      whose turn it is, and what is read of its file
//	line.go, cut.go         lines, and entries made of them; pattern.go, ranges.go
//	ship.go, client.go      batches, and what the store answers
//	keep.go, positions.go   what is dropped, forgotten and saved
//
// Start reading at Run, then shipping.next: what to ask the store, and turnFile: what to read. cutter makes entries of a window of a
// file, and is pure. The package must never import the kubelet's code.
package logs
