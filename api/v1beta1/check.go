package v1beta1

import (
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// check lists what is wrong with a manifest: what the first Kubernetes refused in its own words, and what cannot be had today. The
// API server checks the rest.
func (m *Manifest) check(path string) causes {
	var c causes
	switch {
	case m.Version == "":
		c.add(metav1.CauseTypeFieldValueRequired, path+".version", "required value", "")
	case !slices.Contains(Versions(), m.Version):
		c.add(metav1.CauseTypeFieldValueNotSupported, path+".version", "unsupported value", m.Version)
	}
	for i, v := range m.Volumes {
		source := fmt.Sprintf("%s.volumes[%d].source", path, i)
		if v.Source != nil && v.Source.PersistentDisk != nil {
			c.add(metav1.CauseTypeFieldValueNotSupported, source+".persistentDisk", "unsupported value", v.Source.PersistentDisk.PDName)
		}
		if v.Source != nil && v.Source.GitRepo != nil {
			c.add(metav1.CauseTypeFieldValueNotSupported, source+".gitRepo", "unsupported value", v.Source.GitRepo.Repository)
		}
	}
	for i := range m.Containers {
		container := fmt.Sprintf("%s.containers[%d]", path, i)
		if name := m.Containers[i].Name; name == "" {
			c.add(metav1.CauseTypeFieldValueRequired, container+".name", "required value", "")
		} else if len(validation.IsDNS1123Label(name)) > 0 {
			c.add(metav1.CauseTypeFieldValueInvalid, container+".name", "invalid value", name)
		}
		if m.Containers[i].Image == "" {
			c.add(metav1.CauseTypeFieldValueRequired, container+".image", "required value", "")
		}
	}
	return c
}
