package logs

import "time"

// PathSessions is the path of sessions. What stands below it is in the package's documentation.
const PathSessions = "/ship/v1/sessions"

// ServerName is the name in the certificates of the stores.
const ServerName = "k8sm-logs.kube-system.svc"

// ForgetAfter is how long a minion keeps logs for a store that is not in the service any more, while another one is.
const ForgetAfter = 24 * time.Hour

// Limits of a request.
const (
	// MaxQuestions is how many files one request may ask for.
	MaxQuestions = 256
	// MaxRanges is how many ranges one Answer has at most.
	MaxRanges = 1024
	// MaxHoles is how many Holes an entry has at most.
	MaxHoles = 64
	// MaxUndurable is how many batches the minion sends beyond the last one that is on disk.
	MaxUndurable = 1024
)

// Session is what the store answers when it opens one.
type Session struct {
	// ID names the session in paths. It has only letters, digits, "-" and "_".
	ID string `json:"id"`
	// MaxMessage is the longest message of an entry that the store takes, in bytes.
	MaxMessage int `json:"maxMessage"`
	// MaxBatch is the largest batch that the store takes, in bytes before compression.
	MaxBatch int `json:"maxBatch"`
}

// Receipt is what the store answers to a batch.
type Receipt struct {
	// Durable is the last batch of the session up to which all are on disk; 0 if none is.
	Durable int64 `json:"durable"`
	// Refused are sources whose entries the store did not take and never will.
	Refused []Refusal `json:"refused,omitempty"`
	// Deferred are files whose entries the store did not take, but may take later.
	Deferred []FileID `json:"deferred,omitempty"`
}

// Refusal is a source whose entries the store did not take.
type Refusal struct {
	FileID
	// Why is a reason for people, such as "pod shop/web-0 is on node b".
	Why string `json:"why"`
}

// FileID identifies a file among all of a node.
type FileID struct {
	// UID is that of the pod, "" for a component.
	UID string `json:"uid"`
	// Container is the container's name, or that of a component.
	Container string `json:"container"`
	Restart   int    `json:"restart"`
	// File identifies the file among those of the container: its inode, and a fingerprint of its first bytes. It is no name.
	File string `json:"file"`
}

// NodeComponents are the components of a node. The control plane's have other names, and no node may send those: its word must not pass for
// the cluster's audit log.
func NodeComponents() []string { return []string{"minion", "kubelet", "proxy", "warden"} }

// Source is where entries come from: a file of the log of a container, or of a component.
type Source struct {
	// Namespace and Pod are empty for a component.
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
	FileID
	// Number orders the files of this container and restart as they were written.
	Number int64 `json:"number"`
}

// IsComponent reports whether the source is a component of a node rather than a container of a pod.
func (s Source) IsComponent() bool { return s.Namespace == "" && s.Pod == "" && s.UID == "" }

// Stream is one that a container writes.
type Stream string

// Streams. Lines that are not in the format of a container runtime's log have none.
const (
	Stdout   Stream = "stdout"
	Stderr   Stream = "stderr"
	NoStream Stream = ""
)

// Entry is one line of a container, several that were joined, or a part of a long one.
type Entry struct {
	// Time is the container runtime's time of the first line, in nanoseconds since 1970.
	Time   int64  `json:"time"`
	Stream Stream `json:"stream"`
	// Offset and End are where the entry begins and ends in the file, in bytes.
	Offset int64 `json:"offset"`
	End    int64 `json:"end"`
	// Holes are ranges between them that belong to other entries, in ascending order: the streams of a container mix.
	Holes []Range `json:"holes,omitempty"`
	// Message is what the container wrote. In a batch it is "message", or "base64" if it is no valid UTF-8.
	Message []byte `json:"-"`
	// More says that the line goes on in the next entry of the container's stream.
	More bool `json:"more,omitempty"`
	// Lost is set for lines that the minion had to drop. The entry has no message then.
	Lost *Lost `json:"lost,omitempty"`
}

// Lost is how much the minion had to drop.
type Lost struct {
	// Lines counts the lines, 0 if that is not known.
	Lines int64 `json:"lines"`
	// Bytes counts the bytes of the log, including those of the runtime's format.
	Bytes int64 `json:"bytes"`
	// Why is a reason for people.
	Why string `json:"why"`
}

// Range is a range of bytes in a file, without the one at End.
type Range struct {
	Begin int64 `json:"begin"`
	End   int64 `json:"end"`
}

// Questions ask what the store holds of files, at most MaxQuestions.
type Questions struct {
	Files []Question `json:"files"`
}

// Question asks for what the store holds of a file.
type Question struct {
	Source
	// From is where the ranges of interest begin.
	From int64 `json:"from"`
}

// Answers are in the order of the questions.
type Answers struct {
	Files []Answer `json:"files"`
}

// Answer is what the store holds of a file.
type Answer struct {
	// Held are the ranges that entries cover, in ascending order, and that end beyond the question's From.
	Held []Range `json:"held,omitempty"`
	// Until is set if there are more than MaxRanges: Held is complete only up to there. Ask again from there on.
	Until int64 `json:"until,omitempty"`
}
