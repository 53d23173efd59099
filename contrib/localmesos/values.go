package localmesos

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"

	mesos "github.com/mesos/mesos-go/api/v1/lib"
)

// value is the part after the colon of a resource or attribute: one of Mesos's value types
// (https://mesos.apache.org/documentation/latest/attributes-resources/).
type value struct {
	kind   mesos.Value_Type
	scalar float64
	ranges spans
	set    []string
	text   string
}

func parseValue(s string) (value, error) {
	switch {
	case s == "":
		return value{}, fmt.Errorf("a value is missing")
	case strings.HasPrefix(s, "["):
		ranges, err := parseSpans(s)
		return value{kind: mesos.RANGES, ranges: ranges}, err
	case strings.HasPrefix(s, "{"):
		if !strings.HasSuffix(s, "}") {
			return value{}, fmt.Errorf("%q has no closing brace; write a set as {a,b}", s)
		}
		return value{kind: mesos.SET, set: fields(s[1:len(s)-1], ",")}, nil
	}
	if f, err := strconv.ParseFloat(s, 64); err == nil && !math.IsInf(f, 0) && !math.IsNaN(f) {
		return value{kind: mesos.SCALAR, scalar: f}, nil
	}
	return value{kind: mesos.TEXT, text: s}, nil
}

func parseSpans(s string) (spans, error) {
	if !strings.HasSuffix(s, "]") {
		return nil, fmt.Errorf("%q has no closing bracket; write ranges as [1-5,8-9]", s)
	}
	var out spans
	for _, item := range fields(s[1:len(s)-1], ",") {
		low, high, isRange := strings.Cut(item, "-")
		if !isRange {
			high = low
		}
		begin, err1 := strconv.ParseUint(strings.TrimSpace(low), 10, 64)
		end, err2 := strconv.ParseUint(strings.TrimSpace(high), 10, 64)
		if err1 != nil || err2 != nil || begin > end {
			return nil, fmt.Errorf("%q is not a range; write one as 31000-32000", item)
		}
		out = out.plus(spans{{begin, end}})
	}
	return out, nil
}

// parseAttributes reads "rack:r1;weight:3".
func parseAttributes(s string) ([]mesos.Attribute, error) {
	var out []mesos.Attribute
	for _, item := range fields(s, ";") {
		name, text, ok := strings.Cut(item, ":")
		if !ok || strings.TrimSpace(name) == "" {
			return nil, fmt.Errorf("%q is not name:value; write attributes as 'rack:r1;weight:3'", item)
		}
		v, err := parseValue(strings.TrimSpace(text))
		if err != nil {
			return nil, fmt.Errorf("attribute %q: %w", item, err)
		}
		out = append(out, v.attribute(strings.TrimSpace(name)))
	}
	return out, nil
}

func (v value) attribute(name string) mesos.Attribute {
	a := mesos.Attribute{Name: name, Type: v.kind}
	switch v.kind {
	case mesos.SCALAR:
		a.Scalar = &mesos.Value_Scalar{Value: v.scalar}
	case mesos.RANGES:
		a.Ranges = v.ranges.message()
	case mesos.SET:
		a.Set = &mesos.Value_Set{Item: v.set}
	default:
		a.Text = &mesos.Value_Text{Value: v.text}
	}
	return a
}

// parseResources reads "cpus:4;cpus(role):2;ports:[31000-32000]", or JSON as in Mesos's operator API.
func parseResources(s string) (pool, error) {
	if strings.HasPrefix(strings.TrimSpace(s), "[{") {
		return parseJSONResources(s)
	}
	var out pool
	for _, item := range fields(s, ";") {
		name, text, ok := strings.Cut(item, ":")
		name = strings.TrimSpace(name)
		role := "*"
		if open := strings.IndexByte(name, '('); open >= 0 && strings.HasSuffix(name, ")") {
			name, role = name[:open], name[open+1:len(name)-1]
		}
		if !ok || name == "" || strings.ContainsAny(name, "()") {
			return nil, fmt.Errorf("%q is not name:value; write resources as 'cpus:4;mem:4096;ports:[31000-32000]'", item)
		}
		if problem := roleProblem(role); problem != "" {
			return nil, fmt.Errorf("%q: %s", item, problem)
		}
		v, err := parseValue(strings.TrimSpace(text))
		switch {
		case err != nil:
			return nil, fmt.Errorf("resource %q: %w", item, err)
		case v.kind == mesos.TEXT || v.kind == mesos.SCALAR && v.scalar < 0:
			return nil, fmt.Errorf("resource %q: give a number of at least 0, ranges as [1-5], or a set as {a,b}", item)
		}
		part := pool{{slot: slot{name: name, role: role}, scalar: milli(v.scalar), ranges: v.ranges, set: v.set, kind: v.kind}}
		if problem := out.misfit(part[0], v.scalar); problem != "" {
			return nil, fmt.Errorf("resource %q: %s", item, problem)
		}
		out = out.plus(part)
	}
	return out, nil
}

func parseJSONResources(s string) (pool, error) {
	var documents []resourceDocument
	if err := json.Unmarshal([]byte(s), &documents); err != nil {
		return nil, fmt.Errorf("%q is not a list of resources in JSON: %w", s, err)
	}
	var out pool
	for i := range documents {
		r := &documents[i].message
		part := poolOf([]mesos.Resource{*r})
		if problem := roleProblem(part[0].role); problem != "" {
			return nil, fmt.Errorf("resource %s: %s", r.Name, problem)
		}
		if r.Reservation != nil || len(r.Reservations) > 1 || r.Revocable != nil || r.Disk != nil || part.empty() {
			return nil, fmt.Errorf("resource %s: the local Mesos takes amounts above 0, reserved for one role or for none", r.Name)
		}
		if problem := out.misfit(part[0], r.GetScalar().GetValue()); problem != "" {
			return nil, fmt.Errorf("resource %s: %s", r.Name, problem)
		}
		out = out.plus(part)
	}
	return out, nil
}

// mostScalar is far more than any machine has, yet sums in thousandths do not overflow.
const mostScalar = 1e12

// misfit returns why the amount, of this scalar, cannot be added to the pool, or "".
func (p pool) misfit(a amount, scalar float64) string {
	switch i := p.find(a.slot); {
	case scalar > mostScalar:
		return fmt.Sprintf("give a number of at most %.0f", mostScalar)
	case i >= 0 && p[i].kind != a.kind:
		return fmt.Sprintf("it is there already with another kind of value, %s", p[i].kind)
	}
	return ""
}

// parseOversubscribed reads resources as revocable ones.
func parseOversubscribed(s string) (pool, error) {
	p, err := parseResources(s)
	for i := range p {
		if p[i].role != "*" {
			return nil, fmt.Errorf("%s is reserved: revocable resources cannot be", p[i].name)
		}
		p[i].revocable = true
	}
	return p, err
}

// roleProblem returns why Mesos refuses a role's name, or "" (https://mesos.apache.org/documentation/latest/roles/).
func roleProblem(role string) string {
	if role == "*" {
		return ""
	}
	for _, part := range strings.Split(role, "/") {
		switch {
		case part == "":
			return fmt.Sprintf("Role '%s' has an empty component", role)
		case part == "." || part == ".." || part == "*":
			return fmt.Sprintf("Role component '%s' is invalid", part)
		case strings.HasPrefix(part, "-"):
			return fmt.Sprintf("Role component '%s' is invalid because it begins with a dash", part)
		case strings.ContainsAny(part, " \t\n\v\f\r\b\x7f"):
			return fmt.Sprintf("Role component '%s' is invalid because it contains backspace or whitespace", part)
		}
	}
	return ""
}

// fields splits, trims, and skips empty fields.
func fields(s, sep string) []string {
	var out []string
	for _, part := range strings.Split(s, sep) {
		if part = strings.TrimSpace(part); part != "" {
			out = append(out, part)
		}
	}
	return out
}
