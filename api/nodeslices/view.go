package nodeslices

import (
	"maps"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api"
)

const (
	// Namespace has the slices and the summary, and no other ConfigMaps of k8sm: nodes may read all that it has.
	Namespace = "k8sm-nodes"
	// Selector selects slices and summary. Another format would have another version: readers that do not know it see nothing, and watch
	// nodes.
	Selector = api.LabelNodeSlices + "=" + version
	version  = "v1"

	// Summary is the name of the summary.
	Summary = "summary"
	// Keys of the data of a slice, and of the summary.
	nodesKey                                      = "nodes"
	digestKey, renewedKey, slicesKey, nodesNumber = "digest", "renewed", "slices", "nodes"
)

// RenewEvery is how often the summary is renewed.
const RenewEvery = 15 * time.Second

// Object returns the ConfigMap of a slice.
func Object(name, text string) *corev1.ConfigMap {
	return object(name, map[string]string{nodesKey: text})
}

// SummaryObject returns the ConfigMap with the summary of slices.
func SummaryObject(texts Texts, nodes int, now time.Time) *corev1.ConfigMap {
	return object(Summary, map[string]string{
		digestKey: texts.Digest(), renewedKey: now.UTC().Format(time.RFC3339Nano),
		slicesKey: strconv.Itoa(len(texts)), nodesNumber: strconv.Itoa(nodes), // for people
	})
}

func object(name string, data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: name, Labels: map[string]string{api.LabelNodeSlices: version}},
		Data:       data,
	}
}

// TextsOf returns the texts of the slices among the objects.
func TextsOf(objects []*corev1.ConfigMap) Texts {
	texts := Texts{}
	for _, o := range objects {
		if o.Name != Summary {
			texts[o.Name] = o.Data[nodesKey]
		}
	}
	return texts
}

// View is what a reader sees.
type View struct {
	// Nodes are those of all slices that can be read.
	Nodes []Node
	// Exact says that these are all nodes, and no others, as the scheduler knew them when it wrote the summary.
	Exact bool
	// Renewed differs after each renewal of the summary; "" if there is none.
	Renewed string
}

// Read returns what the objects say: slices and summary, in any order, some of which may be missing.
func Read(objects []*corev1.ConfigMap) (v View) {
	texts := TextsOf(objects)
	exact := false
	for _, o := range objects {
		if o.Name == Summary {
			v.Renewed, exact = o.Data[renewedKey], o.Data[digestKey] == texts.Digest()
		}
	}
	seen := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		nodes, err := Decode(texts[name])
		exact = exact && err == nil
		for _, node := range nodes {
			if !seen[node.Name] {
				seen[node.Name] = true
				v.Nodes = append(v.Nodes, node)
			}
		}
	}
	v.Exact = exact && v.Renewed != ""
	return v
}

// Trust decides whether a scheduler keeps the slices, by the reader's clock alone. A reader that finds a summary cannot know how old it is:
// it waits until that moves.
type Trust struct {
	patience time.Duration
	until    time.Time // when to give up
	renewed  string    // of the view that was seen last and counts
	kept     bool
}

// NewTrust returns a Trust that gives up after this time without a renewal.
func NewTrust(now time.Time, patience time.Duration) *Trust {
	return &Trust{patience: patience, until: now.Add(patience)}
}

// See takes what the reader sees. A summary that does not fit the slices is no renewal.
func (t *Trust) See(now time.Time, v View) {
	switch {
	case v.Renewed == "" && t.renewed == "": // no scheduler has ever kept slices
		t.until = now
	case t.renewed == "":
		t.renewed, t.until = v.Renewed, now.Add(t.patience)
	case v.Exact && v.Renewed != t.renewed:
		t.renewed, t.until, t.kept = v.Renewed, now.Add(t.patience), true
	}
}

// Excuse says that no renewal can be seen now: no API server can be reached.
func (t *Trust) Excuse(now time.Time) { t.until = now.Add(t.patience) }

// Kept reports whether the summary has moved, and has not stood still since for longer than the patience.
func (t *Trust) Kept(now time.Time) bool { return t.kept && !t.Lapsed(now) }

// Lapsed reports whether no scheduler keeps the slices.
func (t *Trust) Lapsed(now time.Time) bool {
	if now.Before(t.until) {
		return false
	}
	t.kept = false
	return true
}
