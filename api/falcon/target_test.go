package falcon

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTargets(t *testing.T) {
	for text, want := range map[string]Target{
		"http://127.0.0.1:1988/v1/push":           {URL: "http://127.0.0.1:1988/v1/push"},
		"https://falcon.example/api/push":         {URL: "https://falcon.example/api/push"},
		"http://[2001:db8::1]:6060/api/push?a=b":  {URL: "http://[2001:db8::1]:6060/api/push?a=b"},
		"tcp://transfer:8433":                     {Addresses: []string{"transfer:8433"}},
		"tcp://10.0.0.1:8433,[2001:db8::1]:18433": {Addresses: []string{"10.0.0.1:8433", "[2001:db8::1]:18433"}},
		"tcp://a:8433,tcp://b:8433":               {Addresses: []string{"a:8433", "b:8433"}},
	} {
		got, err := ParseTarget(text)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %v\n%s", text, err, diff)
		}
		if again, err := ParseTarget(got.String()); err != nil || !cmp.Equal(got, again) {
			t.Errorf("%s: its text %s means %+v, %v", text, got, again, err)
		}
	}
}

func TestBadTargetsSayWhatToGive(t *testing.T) {
	for text, want := range map[string]string{
		"":                          "neither http:// nor tcp://",
		"127.0.0.1:1988":            "neither http:// nor tcp://",
		"udp://a:1":                 "neither http:// nor tcp://",
		"http://127.0.0.1:1988":     "no path",
		"http://127.0.0.1:1988/":    "no path",
		"http:///v1/push":           "not HOST:PORT",
		"http://a:0/v1/push":        "not HOST:PORT",
		"http://a:99999/v1/push":    "not HOST:PORT",
		"http://me:secret@a/push":   "user or password",
		"http://a/push#here":        "#fragment",
		"http://a b/push":           "invalid character",
		"tcp://":                    "not HOST:PORT",
		"tcp://transfer":            "not HOST:PORT",
		"tcp://:8433":               "not HOST:PORT",
		"tcp://a:8433,":             "not HOST:PORT",
		"tcp://a:0":                 "not HOST:PORT",
		"tcp://a:rpc":               "not HOST:PORT",
		"tcp://me:secret@a:8433":    "not HOST:PORT",
		"tcp://me@a:8433":           "without a path or password",
		"tcp://a:8433, b:8433":      "not a host",
		"tcp://a:8433,http://b:843": "not HOST:PORT",
	} {
		_, err := ParseTarget(text)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(text, "http") && strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}
