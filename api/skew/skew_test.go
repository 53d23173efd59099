package skew_test

import (
	"strings"
	"testing"

	"github.com/k8sm/k8sm/api/skew"
)

// beside are API servers of these versions, at addresses a, b and so on.
func beside(versions ...string) (servers []skew.Server) {
	for i, v := range versions {
		servers = append(servers, skew.Server{Address: string(rune('a' + i)), Version: v})
	}
	return servers
}

func TestKubeletIsNeverNewerThanTheOldestAPIServer(t *testing.T) {
	for _, test := range []struct {
		kubelet string
		servers []skew.Server
		newer   string // the server that is older
	}{
		{"v1.36.3", beside("v1.36.3"), ""},
		{"v1.36.9", beside("v1.36.0"), ""}, // the policy is about minor versions
		{"v1.36.0", beside("v1.37.1"), ""},
		{"v1.36.3", beside("v1.35.4"), "a, v1.35.4"},
		{"v1.36.3", beside("v1.36.3", "v1.35.4", "v1.36.3"), "b, v1.35.4"},
		{"v1.36.3", beside("v1.36.3", "v1.36.1"), ""},
		{"v1.36.3", beside("v1.9.0"), "a, v1.9.0"}, // 9 is less than 36
		{"v2.0.0", beside("v1.36.3"), "a, v1.36.3"},
		{"v1.36.3", beside("v1.36.3", ""), ""},
		{"v1.36.3", beside("", "v1.35.4"), "b, v1.35.4"},
		{"v1.36.3", beside("v1.35.4+vendor.1"), "a, v1.35.4+vendor.1"},
		{"v1.36.3", beside("v0.0.0-master+$Format:%H$"), ""}, // linked without a version
		{"v1.36.3", nil, ""},
		{"", beside("v1.35.4"), ""},
		{"dev", beside("v1.35.4"), ""},
	} {
		got := skew.Newer(test.kubelet, test.servers)
		if (got != "") != (test.newer != "") || !strings.Contains(got, test.newer) {
			t.Errorf("kubelet %s beside %v: %q, want %q", test.kubelet, test.servers, got, test.newer)
		}
	}
}

func TestServerWithoutAVersionIsTold(t *testing.T) {
	for _, test := range []struct {
		servers []skew.Server
		want    string
	}{
		{beside("v1.36.3", ""), "at b"}, {beside("v1.36.3", "what"), "at b"}, {beside("v1.36.3"), ""}, {nil, ""},
	} {
		if got := skew.Unknown(test.servers); (got != "") != (test.want != "") || !strings.Contains(got, test.want) {
			t.Errorf("%v: %q, want %q", test.servers, got, test.want)
		}
	}
}

func TestKubeletIsAtMostThreeMinorVersionsOlder(t *testing.T) {
	for _, test := range []struct {
		kubelet string
		servers []skew.Server
		old     bool
	}{
		{"v1.33.0", beside("v1.36.3"), false}, {"v1.32.9", beside("v1.36.3"), true}, {"v1.32.9", beside("v1.35.4", "v1.36.3"), true},
		{"v1.36.3", beside("v1.36.3"), false}, {"v1.37.0", beside("v1.36.3"), false}, {"", beside("v1.36.3"), false}, {"v1.30.0", nil, false},
	} {
		if got := skew.TooOld(test.kubelet, test.servers); (got != "") != test.old {
			t.Errorf("kubelet %s beside %v: %q", test.kubelet, test.servers, got)
		}
	}
}

func TestAPIServersAreAtMostOneMinorVersionApart(t *testing.T) {
	for _, test := range []struct {
		servers []skew.Server
		apart   bool
	}{
		{beside("v1.36.3", "v1.35.4"), false}, {beside("v1.36.3", "v1.34.0", "v1.35.4"), true}, {beside("v1.36.3", ""), false}, {nil, false},
	} {
		if got := skew.Apart(test.servers); (got != "") != test.apart {
			t.Errorf("%v: %q", test.servers, got)
		}
	}
}

func TestDataIsTakenOverOneMinorVersionForthOrBack(t *testing.T) {
	for _, test := range []struct {
		server, newest   string
		refused, warning bool
	}{
		{"v1.36.3", "", false, false},
		{"v1.36.3", "v1.36.3", false, false},
		{"v1.36.0", "v1.36.3", false, false},
		{"v1.36.3", "v1.35.4", false, false},
		{"v1.36.3", "v1.34.1", true, false}, // none may be skipped
		{"v1.35.4", "v1.36.3", false, true},
		{"v1.34.1", "v1.36.3", true, false},
		{"v1.36.3", "from the future", false, false},
	} {
		warning, err := skew.Step(test.server, test.newest)
		if (err != nil) != test.refused || (warning != "") != test.warning {
			t.Errorf("%s on data of %s: %q, %v", test.server, test.newest, warning, err)
		}
	}
}
