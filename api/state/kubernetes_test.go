package state

import "testing"

func TestNewestVersionThatWroteToEtcdStaysRecorded(t *testing.T) {
	s := open(t, etcd(t), "a")
	for _, test := range []struct {
		version          string
		refused, warning bool
	}{
		{"v1.35.4", false, false},
		{"v1.36.3", false, false},
		{"v1.35.4", false, true},  // one back
		{"v1.34.1", true, false},  // from the newest, not from the last
		{"v1.36.3", false, false}, // and forth again
		{"v1.38.0", true, false},
		{"v1.37.0", false, false},
		{"v1.35.4", true, false},
	} {
		warning, err := s.TakeOver(t.Context(), test.version)
		if (err != nil) != test.refused || (warning != "") != test.warning {
			t.Errorf("%s: %q, %v", test.version, warning, err)
		}
	}
	if newest, err := s.get(t.Context(), KubernetesKey("a")); err != nil || string(newest) != "v1.37.0" {
		t.Errorf("recorded is %q, %v", newest, err)
	}
}
