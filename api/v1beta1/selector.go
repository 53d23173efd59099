package v1beta1

import (
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/selection"
)

// FieldSelector converts a query's fields= for a resource to the fieldSelector of v1. A field that v1beta1 does not select by is a
// *Status 400.
func FieldSelector(r Resource, selector string) (string, error) {
	parsed, err := fields.ParseSelector(selector)
	if err != nil {
		return "", badRequest("fields=%s: %v", selector, err)
	}
	var terms []fields.Selector
	for _, term := range parsed.Requirements() {
		converted, ok := fieldTerm(r, term)
		if !ok {
			return "", badRequest("fields=%s: %s cannot be selected by '%s': use %s",
				selector, r.Name, term.Field, strings.Join(selectable(r), ", "))
		}
		terms = append(terms, converted...)
	}
	return fields.AndSelectors(terms...).String(), nil
}

// The fields of pods that clients select by.
const (
	fieldName   = "name"
	fieldHost   = "DesiredState.Host"
	fieldStatus = "DesiredState.Status"
)

// eventFields have the same name in v1.
var eventFields = []string{
	"involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid",
	"involvedObject.apiVersion", "involvedObject.resourceVersion", "involvedObject.fieldPath", "reason", "source",
}

func selectable(r Resource) []string {
	switch r.Kind {
	case "Pod":
		return []string{fieldName, fieldHost, fieldStatus}
	case "Event":
		return append([]string{fieldName}, eventFields...)
	}
	return []string{fieldName}
}

// fieldTerm is false for a field that the resource is not selected by.
func fieldTerm(r Resource, term fields.Requirement) ([]fields.Selector, bool) {
	negated := term.Operator == selection.NotEquals
	switch {
	case !slices.Contains(selectable(r), term.Field):
		return nil, false
	case term.Field == fieldStatus:
		return phaseTerms(term.Value, negated), true
	case term.Field == fieldHost:
		return []fields.Selector{compare("spec.nodeName", NameOf(term.Value), negated)}, true
	case term.Field == fieldName:
		return []fields.Selector{compare("metadata.name", NameOf(term.Value), negated)}, true
	}
	return []fields.Selector{compare(term.Field, term.Value, negated)}, true
}

func compare(field, value string, negated bool) fields.Selector {
	if negated {
		return fields.OneTermNotEqualSelector(field, value)
	}
	return fields.OneTermEqualSelector(field, value)
}

// phaseTerms select the phases that are shown as a status, or those that are not. Selectors have no "or", so where several phases
// are meant, the others are excluded. A phase of v1 is taken as such.
func phaseTerms(status string, negated bool) []fields.Selector {
	var terms []fields.Selector
	exclude := func(phases ...v1.PodPhase) []fields.Selector {
		for _, p := range phases {
			terms = append(terms, compare("status.phase", string(p), true))
		}
		return terms
	}
	switch {
	case status == Terminated && negated:
		return exclude(v1.PodSucceeded, v1.PodFailed, v1.PodUnknown)
	case status == Terminated:
		return exclude(v1.PodPending, v1.PodRunning)
	case status == Waiting:
		status = string(v1.PodPending)
	}
	return []fields.Selector{compare("status.phase", status, negated)}
}
