package api_test

import (
	"testing"

	"github.com/k8sm/k8sm/api"
)

// ascending are versions of which each is newer than all before it.
var ascending = []api.KMVersion{
	"",
	"dev",
	"49b5016+20261129T152122Z",
	"49b5016-dirty+20261129T152122Z",
	"9cf5b4e+20261129T152458Z",
	"v0.1.0-rc.1",
	"v0.1.0-rc.1-3-g6687c50",
	"v0.1.0",
	"v0.1.0-dirty",
	"v0.1.0-5-gaaaaaaa+20270101T000000Z",
	"v0.1.0-5-gbbbbbbb+20270101T000001Z",
	"v0.1.0-12-gccccccc+20260101T000000Z",
	"v0.1.0-12-gccccccc-dirty+20260101T000000Z",
	"v0.1.1-alpha.2",
	"v0.2.0",
	"v0.10.0",
	"v1",
	"v1.0.1",
}

func TestVersionsAreOrdered(t *testing.T) {
	for i, a := range ascending {
		for j, b := range ascending {
			want := api.VersionSame
			if i < j {
				want = api.VersionOlder
			} else if i > j {
				want = api.VersionNewer
			}
			if got := a.Compare(b); got != want {
				t.Errorf("%q is %s beside %q, want %s", a, got, b, want)
			}
		}
	}
}

func TestVersionsThatDoNotTellWhichIsNewerAreUnordered(t *testing.T) {
	for _, pair := range [][2]api.KMVersion{
		{"dev", "e2e"}, {"49b5016", "9cf5b4e"}, {"49b5016", "9cf5b4e-dirty"},
		{"v0.1.0-5-gaaaaaaa", "v0.1.0-5-gbbbbbbb"}, {"v0.1.0-5-gaaaaaaa+20270101T000000Z", "v0.1.0-5-gbbbbbbb"},
		{"49b5016+20261129T152122Z", "9cf5b4e+20261129T152122Z"},
	} {
		for _, got := range []api.VersionOrder{pair[0].Compare(pair[1]), pair[1].Compare(pair[0])} {
			if got != api.VersionUnordered {
				t.Errorf("%q beside %q: %s", pair[0], pair[1], got)
			}
		}
	}
	for _, pair := range [][2]api.KMVersion{{"v1", "v1.0.0"}, {"v0.1.0", "v0.1.0+meta"}, {"v0.1.0-5-gaa", "v0.1.0-5-gaa+20270101T000000Z"}} {
		if got := pair[0].Compare(pair[1]); got != api.VersionSame {
			t.Errorf("%q beside %q: %s", pair[0], pair[1], got)
		}
	}
}

func FuzzVersionsNeverGoInACircle(f *testing.F) {
	for i := range ascending[2:] {
		f.Add(string(ascending[i]), string(ascending[i+1]), string(ascending[i+2]))
	}
	f.Add("49b5016", "49b5016-dirty", "9cf5b4e+20261129T152122Z")
	f.Add("a+20270101T000000Z", "a-dirty", "b+20260101T000000Z")
	f.Add("v1-5-gaa-dirty+20260101T000000Z", "v1-5-gaa+20270101T000000Z", "v1-5-gbb+20260601T000000Z")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		list := []api.KMVersion{api.KMVersion(a), api.KMVersion(b), api.KMVersion(c)}
		opposite := map[api.VersionOrder]api.VersionOrder{
			api.VersionOlder: api.VersionNewer, api.VersionNewer: api.VersionOlder,
			api.VersionSame: api.VersionSame, api.VersionUnordered: api.VersionUnordered,
		}
		for i, v := range list {
			for _, w := range list {
				if one, other := v.Compare(w), w.Compare(v); other != opposite[one] {
					t.Errorf("%q is %s beside %q, which is %s", v, one, w, other)
				}
			}
			w, u := list[(i+1)%3], list[(i+2)%3]
			if v.Compare(w) == api.VersionNewer && w.Compare(u) == api.VersionNewer {
				if back := u.Compare(v); back == api.VersionNewer || back == api.VersionSame {
					t.Errorf("%q > %q > %q, which is %s beside the first", v, w, u, back)
				}
			}
		}
	})
}
