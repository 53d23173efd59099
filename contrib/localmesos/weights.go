package localmesos

import (
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"

	mesos "github.com/mesos/mesos-go/api/v1/lib"
)

// weights of roles, set by operators; others have 1. They are stored and shown, and divide dominant shares, but offers do not follow
// them. See https://mesos.apache.org/documentation/latest/weights/.
type weights map[string]float64

func (w weights) of(role string) float64 {
	if weight, set := w[role]; set {
		return weight
	}
	return 1
}

// messages returns the weights that were set, by role.
func (w weights) messages() []mesos.WeightInfo {
	var out []mesos.WeightInfo
	for _, role := range slices.Sorted(maps.Keys(w)) {
		out = append(out, mesos.WeightInfo{Role: &role, Weight: w[role]})
	}
	return out
}

// updateWeights sets weights, all or none. If a framework uses one of the roles, it rescinds all offers
// (Master::WeightsHandler in src/master/weights_handler.cpp).
func (m *master) updateWeights(infos []mesos.WeightInfo) answer {
	const prefix = "Failed to validate update weights request JSON"
	changed := weights{}
	for i := range infos {
		role, weight := strings.TrimSpace(infos[i].GetRole()), infos[i].Weight
		if problem := roleProblem(role); problem != "" || role == "" {
			return refused(fmt.Sprintf("%s: Invalid role '%s': %s", prefix, role, problem))
		}
		if !(weight > 0) || math.IsInf(weight, 1) {
			return refused(fmt.Sprintf("%s for role '%s': Invalid weight '%v': Weights must be positive", prefix, role, weight))
		}
		changed[role] = weight
	}
	maps.Copy(m.weights, changed)
	m.do(saveFrameworks{})
	tracked := m.trackedRoles()
	for role := range changed {
		if len(tracked[role]) > 0 {
			for _, o := range m.offers {
				m.rescind(o)
				m.allocateSoon(o.agent)
			}
		}
	}
	return answer{status: http.StatusOK}
}
