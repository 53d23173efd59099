package localmesos

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	mesos "github.com/mesos/mesos-go/api/v1/lib"
	"github.com/mesos/mesos-go/api/v1/lib/scheduler"

	"github.com/k8sm/k8sm/api"
)

// subscribeProblem returns why a subscription is refused, or "". It restores fields in info that a framework cannot change.
func (m *master) subscribeProblem(call *scheduler.Call, info *mesos.FrameworkInfo) string {
	if id := call.GetFrameworkID().GetValue(); id != "" {
		info.ID = &mesos.FrameworkID{Value: id}
	}
	if problem := m.frameworkProblem(*info); problem != "" {
		return problem
	}
	if problem := suppressedProblem(*info, call.GetSubscribe().GetSuppressedRoles()); problem != "" {
		return problem
	}
	f := m.frameworks[api.FrameworkID(info.GetID().GetValue())]
	if f == nil {
		return ""
	}
	info.User, info.Checkpoint = f.info.User, f.info.Checkpoint // preserveImmutableFields
	return updateInfoProblem(f.info, *info)
}

// frameworkProblem follows Master::validateFramework in src/master/master.cpp and framework::validate in
// src/master/validation.cpp.
func (m *master) frameworkProblem(info mesos.FrameworkInfo) string {
	if problem := rolesProblem(info); problem != "" {
		return problem
	}
	if id := info.GetID().GetValue(); id != "" && idProblem(id) != "" {
		return idProblem(id)
	}
	if seconds := info.GetFailoverTimeout(); math.Abs(seconds) > math.MaxInt64/1e9 || math.IsNaN(seconds) {
		return "The framework failover_timeout (" + strconv.FormatFloat(seconds, 'g', 6, 64) + ") is invalid"
	}
	if m.removed[api.FrameworkID(info.GetID().GetValue())] {
		return "Framework has been removed"
	}
	return ""
}

func rolesProblem(info mesos.FrameworkInfo) string {
	if !hasCapability(info, mesos.FrameworkInfo_Capability_MULTI_ROLE) {
		if len(info.Roles) > 0 {
			return "'FrameworkInfo.roles' must not be set when the framework is not MULTI_ROLE capable"
		}
		if problem := roleProblem(info.GetRole()); problem != "" {
			return "'FrameworkInfo.role' is not a valid role: " + problem
		}
		return ""
	}
	if info.Role != nil {
		return "'FrameworkInfo.role' must not be set when the framework is MULTI_ROLE capable"
	}
	var twice []string
	for i, role := range info.Roles {
		if slices.Contains(info.Roles[:i], role) {
			twice = append(twice, role)
		}
	}
	if len(twice) > 0 {
		return "'FrameworkInfo.roles' contains duplicate items: " + setText(twice)
	}
	for _, role := range info.Roles {
		if problem := roleProblem(role); problem != "" {
			return "'FrameworkInfo.roles' contains invalid role: " + problem
		}
	}
	return ""
}

// setText writes a set as Mesos does (3rdparty/stout/include/stout/stringify.hpp).
func setText(items []string) string {
	items = slices.Compact(slices.Sorted(slices.Values(items)))
	return "{ " + strings.Join(items, ", ") + " }"
}

func suppressedProblem(info mesos.FrameworkInfo, suppressed []string) string {
	f := framework{info: info}
	var others []string
	for _, role := range suppressed {
		if !slices.Contains(f.roles(), role) {
			others = append(others, role)
		}
	}
	if len(others) > 0 {
		return "Suppressed roles " + setText(others) + " are not contained in the set of roles"
	}
	return ""
}

// updateInfoProblem follows framework::validateUpdate in src/master/validation.cpp. A principal cannot be
// changed or removed.
func updateInfoProblem(old, info mesos.FrameworkInfo) string {
	switch {
	case (old.Principal == nil) != (info.Principal == nil) || old.GetPrincipal() != info.GetPrincipal():
		return "Changing framework's principal is not allowed."
	case old.User != info.User:
		return fmt.Sprintf("Updating 'FrameworkInfo.user' is unsupported; attempted to update from '%s' to '%s'", old.User, info.User)
	case old.GetCheckpoint() != info.GetCheckpoint():
		return fmt.Sprintf("Updating 'FrameworkInfo.checkpoint' is unsupported; attempted to update from '%t' to '%t'", old.GetCheckpoint(), info.GetCheckpoint())
	}
	return ""
}
