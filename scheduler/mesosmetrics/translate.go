package mesosmetrics

import (
	"maps"
	"slices"
	"strings"
)

// Kind is a metric's type.
type Kind int

// The kinds. A counter begins at 0 when a master starts.
const (
	Gauge Kind = iota
	Counter
)

// String returns the kind as Prometheus writes it.
func (k Kind) String() string {
	if k == Counter {
		return "counter"
	}
	return "gauge"
}

// Family is a metric.
type Family struct {
	Name string
	Kind Kind
	Help string
	// Labels are the names of its labels.
	Labels []string
}

// Sample is a value of a metric. It must not be changed.
type Sample struct {
	Family *Family
	// Labels are the values of the family's labels, in valid UTF-8.
	Labels []string
	Value  float64
}

// Families returns all metrics, in the order of their names. The caller must not change them.
func Families() []*Family {
	families := []*Family{&up}
	for i := range rules {
		families = append(families, &rules[i].family)
	}
	slices.SortFunc(families, func(a, b *Family) int { return strings.Compare(a.Name, b.Name) })
	return families
}

var up = Family{Name: "mesos_up", Help: "Whether the leading Mesos master answered the scheduler that serves this."}

// Up returns the sample that says whether a master has answered.
func Up(answered bool) Sample {
	s := Sample{Family: &up}
	if answered {
		s.Value = 1
	}
	return s
}

// Translate returns the samples of a master's metrics. No two of them have the same family and labels.
func Translate(master map[string]float64) []Sample {
	var out []Sample
	for i := range rules {
		out = append(out, rules[i].samples(master)...)
	}
	return out
}

func (r *rule) samples(master map[string]float64) []Sample {
	var out []Sample
	for _, s := range r.series {
		if value, known := s.value(master); known {
			out = append(out, Sample{Family: &r.family, Labels: s.labels, Value: value})
		}
	}
	if r.pattern == nil {
		return out
	}
	seen := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(master)) {
		labels := r.pattern.FindStringSubmatch(name)
		if labels == nil {
			continue
		}
		labels = labels[1:]
		for i, label := range labels { // names of roles and principals are others'
			labels[i] = strings.ToValidUTF8(label, "\uFFFD")
		}
		if key := strings.Join(labels, "\x00"); !seen[key] {
			seen[key] = true
			out = append(out, Sample{Family: &r.family, Labels: labels, Value: master[name]})
		}
	}
	return out
}

// value adds and subtracts the master's metrics. It is not known if one of them is missing.
func (s series) value(master map[string]float64) (sum float64, known bool) {
	for _, name := range s.plus {
		value, given := master[name]
		if !given {
			return 0, false
		}
		sum += value
	}
	for _, name := range s.minus {
		value, given := master[name]
		if !given {
			return 0, false
		}
		sum -= value
	}
	return sum, true
}
