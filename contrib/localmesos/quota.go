package localmesos

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"

	mesos "github.com/mesos/mesos-go/api/v1/lib"
	pb "github.com/mesos/mesos-go/api/v1/lib/master"
	"github.com/mesos/mesos-go/api/v1/lib/quota"
)

// quotas of roles, set by operators. Limits are enforced. Guarantees are stored and shown, but no resources are set aside for
// them. See https://mesos.apache.org/documentation/latest/quota/.
type quotas map[string]quota.QuotaConfig

// updateQuota replaces the quotas of the named roles, either all or none. Without guarantee and limit it removes a role's quota.
func (m *master) updateQuota(call *pb.Call_UpdateQuota) answer {
	for i := range call.QuotaConfigs {
		if problem := m.quotaProblem(&call.QuotaConfigs[i], call.GetForce()); problem != "" {
			return refused("Invalid QuotaConfig: " + problem)
		}
	}
	for _, config := range call.QuotaConfigs {
		if len(config.Guarantees)+len(config.Limits) == 0 {
			delete(m.quotas, config.Role)
			continue
		}
		m.quotas[config.Role] = config
	}
	m.do(saveFrameworks{})
	for _, a := range m.agents {
		m.allocateSoon(a)
	}
	return answer{status: http.StatusOK}
}

// quotaProblem returns why a quota is refused, or "".
func (m *master) quotaProblem(config *quota.QuotaConfig, force bool) string {
	if config.Role == "*" {
		return "Invalid 'QuotaConfig.role': setting quota for the default '*' role is not supported"
	}
	if problem := roleProblem(config.Role); problem != "" || config.Role == "" {
		return "Invalid 'QuotaConfig.role': " + problem
	}
	for _, amounts := range []map[string]mesos.Value_Scalar{config.Guarantees, config.Limits} {
		for name, amount := range amounts {
			if !(amount.Value >= 0) || math.IsInf(amount.Value, 1) {
				return fmt.Sprintf("Invalid quota configuration {'%s': %g}: value must be a number that is not negative", name, amount.Value)
			}
		}
	}
	consumed := m.consumed(config.Role)
	for name, limit := range config.Limits {
		if guarantee, given := config.Guarantees[name]; given && limit.Value < guarantee.Value {
			return fmt.Sprintf("'QuotaConfig.guarantees' of %s is not contained within the 'QuotaConfig.limits'", name)
		}
		if consumed[name] > milli(limit.Value) && !force {
			return fmt.Sprintf("Role '%s' is already consuming more %s than the requested limit; use 'force' flag to bypass this check", config.Role, name)
		}
	}
	return ""
}

// belongsTo reports whether a role is the other one or below it (https://mesos.apache.org/documentation/latest/roles/).
func belongsTo(role, parent string) bool {
	return role == parent || strings.HasPrefix(role, parent+"/")
}

// consumed returns how much of each scalar counts towards a role's quota: its reservations, used or not, and what its frameworks
// otherwise use or are offered.
func (m *master) consumed(role string) map[string]int64 {
	sum := map[string]int64{}
	for _, a := range m.agents {
		if a.unreachable {
			continue
		}
		for _, x := range a.total {
			if belongsTo(x.role, role) {
				sum[x.name] += x.scalar
			}
		}
		for _, x := range a.used().plus(a.offered()) {
			if x.role == "*" && !x.revocable && belongsTo(x.used, role) {
				sum[x.name] += x.scalar
			}
		}
	}
	return sum
}

// withinQuota reduces the unreserved scalars of a possible offer to what the limits of the role and its parents leave. Ports and
// revocable resources have no quota.
func (m *master) withinQuota(role string, part pool) pool {
	for limited, config := range m.quotas {
		if len(config.Limits) == 0 || !belongsTo(role, limited) {
			continue
		}
		consumed := m.consumed(limited)
		cut := make(pool, 0, len(part))
		for _, a := range part {
			limit, given := config.Limits[a.name]
			if given && a.kind == mesos.SCALAR && a.role == "*" && !a.revocable {
				a.scalar = min(a.scalar, max(0, milli(limit.Value)-consumed[a.name]))
			}
			if !a.empty() {
				cut = append(cut, a)
			}
		}
		part = cut
	}
	return part
}

// status is the answer to GET_QUOTA.
func (q quotas) status() quota.QuotaStatus {
	var status quota.QuotaStatus
	for _, role := range slices.Sorted(maps.Keys(q)) {
		config := q[role]
		info := quota.QuotaInfo{Role: &role}
		for name, amount := range config.Guarantees {
			info.Guarantee = append(info.Guarantee, mesos.Resource{Name: name, Type: mesos.SCALAR.Enum(), Scalar: &amount})
		}
		slices.SortFunc(info.Guarantee, func(a, b mesos.Resource) int { return cmp.Compare(a.Name, b.Name) })
		status.Infos = append(status.Infos, info)
		status.Configs = append(status.Configs, config)
	}
	return status
}
