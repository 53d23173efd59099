package receive

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/k8sm/k8sm/api/logs"
	"github.com/k8sm/k8sm/contrib/logs/store"
)

// Names of fields of entries in the store. The first ones name the stream.
const (
	FieldNamespace = "namespace"
	FieldPod       = "pod"
	FieldUID       = "uid"
	FieldContainer = "container"
	FieldNode      = "node"
	FieldComponent = "component" // in place of the pod and its container, for a component of a node

	FieldStream  = "stream"  // stdout or stderr
	FieldRestart = "restart" // how often the container had been started before
	FieldFile    = "file"
	FieldNumber  = "number" // counts the files of a container's run
	FieldOffset  = "offset" // of the entry's first byte in the file
	FieldEnd     = "end"
	FieldHoles   = "holes" // ranges of bytes in between that belong to other entries, as "8-12,20-24"
	FieldMore    = "more"  // "true" if the line goes on in the next entry

	FieldLost      = "lost" // why lines are missing here
	FieldLostLines = "lost_lines"
	FieldLostBytes = "lost_bytes"

	FieldOwner     = "owner"     // of the pod, as "ReplicaSet/web-7d9c"
	FieldUnchecked = "unchecked" // "true" if the store could not check that the pod was on the node
	// FieldLabel precedes the names of the pod's labels.
	FieldLabel = "label."
)

// origin is what all entries of a source have in common.
type origin struct {
	source logs.Source
	place  Place
	tenant store.Tenant
	fields []store.Field // those that name the stream first
	stream int           // how many these are
}

// newOrigin returns the origin of a source on a node.
func newOrigin(node string, s logs.Source, place Place) *origin {
	o := &origin{source: s, place: place, tenant: store.Pods}
	set := func(name, value string) { o.fields = append(o.fields, store.Field{Name: name, Value: value}) }
	set(FieldNode, node)
	if s.IsComponent() {
		o.tenant = store.Components
		set(FieldComponent, s.Container)
	} else {
		set(FieldNamespace, s.Namespace)
		set(FieldPod, s.Pod)
		set(FieldUID, s.UID)
		set(FieldContainer, s.Container)
	}
	o.stream = len(o.fields)
	set(FieldRestart, strconv.Itoa(s.Restart))
	set(FieldFile, s.File)
	set(FieldNumber, strconv.FormatInt(s.Number, 10))
	set(FieldOwner, place.Owner)
	if place.Unchecked {
		set(FieldUnchecked, "true")
	}
	for _, name := range slices.Sorted(maps.Keys(place.Labels)) { // in the same order in each entry, so the store sorts them sooner
		if len(FieldLabel)+len(name) <= store.MaxName {
			set(FieldLabel+name, place.Labels[name])
		}
	}
	return o
}

// convert returns an entry as it is stored. It shares nothing with the entry.
func (o *origin) convert(e *logs.Entry) store.Entry {
	const own = 9 // fields that are not in common, at most
	fields := append(make([]store.Field, 0, len(o.fields)+own), o.fields...)
	set := func(name, value string) { fields = append(fields, store.Field{Name: name, Value: value}) }
	number := func(name string, value int64) { set(name, strconv.FormatInt(value, 10)) }
	set(FieldStream, string(e.Stream))
	number(FieldOffset, e.Offset)
	number(FieldEnd, e.End)
	set(FieldHoles, formatHoles(e.Holes))
	if e.More {
		set(FieldMore, "true")
	}
	if e.Lost != nil {
		set(FieldLost, cmp.Or(e.Lost.Why, "unknown"))
		number(FieldLostLines, e.Lost.Lines)
		number(FieldLostBytes, e.Lost.Bytes)
	}
	set(store.Message, string(e.Message))
	return store.Entry{Time: e.Time, Tenant: o.tenant, Fields: fields, Stream: o.stream}
}

func formatHoles(holes []logs.Range) string {
	parts := make([]string, len(holes))
	for i, h := range holes {
		parts[i] = fmt.Sprintf("%d-%d", h.Begin, h.End)
	}
	return strings.Join(parts, ",")
}

// parseHoles parses what the field FieldHoles has.
func parseHoles(text string) ([]logs.Range, error) {
	if text == "" {
		return nil, nil
	}
	var holes []logs.Range
	for part := range strings.SplitSeq(text, ",") {
		begin, end, _ := strings.Cut(part, "-")
		b, err := strconv.ParseInt(begin, 10, 64)
		if err != nil {
			return nil, err
		}
		e, err := strconv.ParseInt(end, 10, 64)
		if err != nil {
			return nil, err
		}
		holes = append(holes, logs.Range{Begin: b, End: e})
	}
	return holes, nil
}

// merge sorts ranges and joins those that touch or overlap.
func merge(ranges []logs.Range) []logs.Range {
	slices.SortFunc(ranges, func(a, b logs.Range) int { return cmp.Compare(a.Begin, b.Begin) })
	merged := ranges[:0]
	for _, r := range ranges {
		if n := len(merged); n > 0 && r.Begin <= merged[n-1].End {
			merged[n-1].End = max(merged[n-1].End, r.End)
		} else {
			merged = append(merged, r)
		}
	}
	return merged
}

// gaps returns the ranges between ranges that were merged.
func gaps(merged []logs.Range) []logs.Range {
	var between []logs.Range
	for i := 1; i < len(merged); i++ {
		between = append(between, logs.Range{Begin: merged[i-1].End, End: merged[i].Begin})
	}
	return between
}
