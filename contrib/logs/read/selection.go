package read

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"

	"github.com/k8sm/k8sm/contrib/logs/receive"
	"github.com/k8sm/k8sm/contrib/logs/store"
)

// Parameters of a request for lines. Each may be there once, but for those that say so.
const (
	ParamPod       = "pod" // several: any of them
	ParamContainer = "container"
	ParamSelector  = "labelSelector" // of the pods' labels
	ParamOwner     = "owner"         // a regular expression for the pods' controllers, such as ReplicaSet/web-[a-z0-9]+
	ParamNode      = "node"
	ParamComponent = "component" // several: any of them
	ParamSince     = "since"     // in RFC 3339, as is until
	ParamUntil     = "until"
	ParamTail      = "tail"     // only the last lines of each container
	ParamGrep      = "grep"     // several: a regular expression that all lines match
	ParamExclude   = "exclude"  // several: one that no line matches
	ParamPrevious  = "previous" // "true": only of the run before the last one
	ParamFollow    = "follow"   // "true": goes on with lines that arrive
)

// selected is what a request wants.
type selected struct {
	filter   string // of LogsQL
	tail     int    // negative for all
	previous bool
	follow   bool
}

// parseSelection parses the parameters.
func parseSelection(values url.Values) (s selected, err error) {
	many := []string{ParamPod, ParamComponent, ParamGrep, ParamExclude}
	for name, given := range values {
		if len(given) > 1 && !slices.Contains(many, name) {
			return s, fmt.Errorf("%q is there more than once", name)
		}
	}
	f := filter{"*"}
	if pods := values[ParamPod]; len(pods) > 0 {
		f.any(receive.FieldPod, pods)
	}
	if components := values[ParamComponent]; len(components) > 0 {
		f.any(receive.FieldComponent, components)
	}
	f.equal(receive.FieldContainer, values.Get(ParamContainer))
	f.equal(receive.FieldNode, values.Get(ParamNode))
	if err := f.selector(values.Get(ParamSelector)); err != nil {
		return s, err
	}
	if owner := values.Get(ParamOwner); owner != "" {
		if err := f.matches(receive.FieldOwner, "^("+owner+")$", false); err != nil {
			return s, err
		}
	}
	for _, pattern := range values[ParamGrep] {
		if err := f.matches(store.Message, pattern, false); err != nil {
			return s, err
		}
	}
	for _, pattern := range values[ParamExclude] {
		if err := f.matches(store.Message, pattern, true); err != nil {
			return s, err
		}
	}
	for name, operator := range map[string]string{ParamSince: ">=", ParamUntil: "<"} {
		if text := values.Get(name); text != "" {
			at, err := time.Parse(time.RFC3339Nano, text)
			if err != nil {
				return s, fmt.Errorf("%q is no time in RFC 3339: %s", name, text)
			}
			f.add("_time:" + operator + at.UTC().Format(time.RFC3339Nano))
		}
	}
	s.tail = -1
	if text := values.Get(ParamTail); text != "" {
		if s.tail, err = strconv.Atoi(text); err != nil || s.tail < 0 {
			return s, fmt.Errorf("%q is no number of lines: %s", ParamTail, text)
		}
	}
	s.filter, s.previous, s.follow = strings.Join(f, " "), values.Get(ParamPrevious) == "true", values.Get(ParamFollow) == "true"
	return s, nil
}

// filter is a filter of LogsQL, of which all parts have to match.
type filter []string

func (f *filter) add(part string) { *f = append(*f, part) }

func (f *filter) equal(field, value string) {
	if value != "" {
		f.add(store.Quote(field) + ":=" + store.Quote(value))
	}
}

func (f *filter) any(field string, values []string) {
	quoted := make([]string, len(values))
	for i, v := range values {
		quoted[i] = store.Quote(v)
	}
	f.add(store.Quote(field) + ":in(" + strings.Join(quoted, ",") + ")")
}

// matches adds a regular expression. Without not, all lines have to match it, else none may.
func (f *filter) matches(field, pattern string, not bool) error {
	if _, err := regexp.Compile(pattern); err != nil {
		return fmt.Errorf("cannot use the regular expression: %w", err)
	}
	part := store.Quote(field) + ":~" + store.Quote(pattern)
	if not {
		part = "!" + part
	}
	f.add(part)
	return nil
}

// selector adds a selector of labels
// (https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors).
func (f *filter) selector(text string) error {
	parsed, err := labels.Parse(text)
	if err != nil {
		return fmt.Errorf("cannot use the label selector: %w", err)
	}
	requirements, _ := parsed.Requirements()
	for _, r := range requirements {
		field := receive.FieldLabel + r.Key()
		if len(field) > store.MaxName {
			return fmt.Errorf("cannot select by the label %s: its name is longer than %d characters, and is not stored", r.Key(), store.MaxName-len(receive.FieldLabel))
		}
		there := store.Quote(field) + ":*"
		switch r.Operator() {
		case selection.Equals, selection.DoubleEquals, selection.In:
			f.any(field, r.ValuesUnsorted())
		case selection.NotEquals, selection.NotIn:
			var not filter
			not.any(field, r.ValuesUnsorted())
			f.add("!" + not[0])
		case selection.Exists:
			f.add(there)
		case selection.DoesNotExist:
			f.add("!" + there)
		default:
			return fmt.Errorf("cannot select logs by %s", r.String())
		}
	}
	return nil
}
