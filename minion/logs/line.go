package logs

import (
	"bytes"
	"math"
	"time"

	"github.com/k8sm/k8sm/api/logs"
)

// line is a line of a container runtime's log
// (https://github.com/kubernetes/design-proposals-archive/blob/main/node/kubelet-cri-logging.md):
//
//	2026-01-02T03:04:05.000000006Z stdout F what the container wrote
type line struct {
	time    int64 // nanoseconds since 1970
	stream  logs.Stream
	partial bool // the container's line goes on in the next line of the stream
	content []byte
}

// maxHeader is more than stands before the content.
const maxHeader = 256

// parseLine parses a line without its newline. The content is a part of text.
func parseLine(text []byte) (line, bool) {
	var l line
	at, rest, ok := bytes.Cut(text[:min(len(text), maxHeader)], space)
	if !ok {
		return line{}, false
	}
	var t time.Time
	if t.UnmarshalText(at) != nil || t.Before(earliest) || t.After(latest) {
		return line{}, false
	}
	l.time = t.UnixNano()
	name, rest, ok := bytes.Cut(rest, space)
	switch {
	case ok && string(name) == string(logs.Stdout):
		l.stream = logs.Stdout
	case ok && string(name) == string(logs.Stderr):
		l.stream = logs.Stderr
	default:
		return line{}, false
	}
	tags, _, ok := bytes.Cut(rest, space)
	begin := len(at) + 1 + len(name) + 1 + len(tags)
	if ok {
		begin++
	} else if begin < len(text) { // the tags have no end within maxHeader
		return line{}, false
	}
	// More tags may follow the first one.
	tag, _, _ := bytes.Cut(tags, colon)
	switch string(tag) {
	case "P":
		l.partial = true
	case "F":
	default:
		return line{}, false
	}
	l.content = text[begin:]
	return l, true
}

var (
	space, colon = []byte(" "), []byte(":")
	// What an int64 has of nanoseconds.
	earliest, latest = time.Unix(0, math.MinInt64), time.Unix(0, math.MaxInt64)
)
