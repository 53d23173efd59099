package v1beta1

import (
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
			return "", badRequest("fields=%s: %s cannot be selected by '%s': use %s", selector, r.Name, term.Field, strings.Join(selectable(r), ", "))
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

func fieldTerm(r Resource, term fields.Requirement) ([]fields.Selector, bool) {
	negated := term.Operator == selection.NotEquals
	compare := func(field, value string, negated bool) fields.Selector {
		if negated {
			return fields.OneTermNotEqualSelector(field, value)
		}
		return fields.OneTermEqualSelector(field, value)
	}
	for _, field := range selectable(r) {
		if field != term.Field {
			continue
		}
		switch {
		case field == fieldName:
			return []fields.Selector{compare("metadata.name", NameOf(term.Value), negated)}, true
		case field == fieldHost:
			return []fields.Selector{compare("spec.nodeName", NameOf(term.Value), negated)}, true
		case field == fieldStatus && term.Value == Terminated:
			// Two phases are Terminated; selectors have no "or".
			if negated {
				return []fields.Selector{compare("status.phase", string(v1.PodSucceeded), true), compare("status.phase", string(v1.PodFailed), true)}, true
			}
			return []fields.Selector{compare("status.phase", string(v1.PodPending), true), compare("status.phase", string(v1.PodRunning), true)}, true
		case field == fieldStatus:
			return []fields.Selector{compare("status.phase", phase(term.Value), negated)}, true
		}
		return []fields.Selector{compare(field, term.Value, negated)}, true
	}
	return nil, false
}

// phase is the phase that is shown as a status, or a word that no phase is.
func phase(status string) string {
	if status == Waiting {
		return string(v1.PodPending)
	}
	return status
}
