package v1beta1

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/equality"
)

// Whatever a client sends is refused with a Status, or is an object that goes to v1 and back as often as one likes.
func FuzzDecode(f *testing.F) {
	files, err := filepath.Glob("testdata/examples/*")
	if err != nil || len(files) == 0 {
		f.Fatalf("there are no examples: %v", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		for i := range Resources() {
			f.Add(data, uint8(i))
		}
	}
	f.Add([]byte(container(`,"lifecycle":{"preStop":{}},"livenessProbe":{"exec":{}},"env":[{"key":"a"}],"ports":[{"protocol":"udp"}]`)), uint8(0))
	for i, r := range Resources() {
		if r.Kind == "Endpoints" {
			f.Add([]byte(`{"id":"s","annotations":{"a":"b"},"endpoints":["10.0.0.2:80","[fd00::1]:81","10.0.0.1:80","[::ffff:10.0.0.3]:80"]}`), uint8(i))
			f.Add([]byte("endpoints:\n- 10.0.0.1:80\n- 10.0.0.1:81\n- db:80\n- 127.0.0.1:1\n"), uint8(i))
		}
	}
	f.Fuzz(func(t *testing.T, body []byte, which uint8) {
		r := Resources()[int(which)%len(Resources())]
		o, err := Decode(body, r, V1Beta1)
		if err != nil {
			if s := status(t, err); s.Code != 400 && s.Code != 422 || s.Message == "" {
				t.Fatalf("the answer is %s", encode(t, s))
			}
			return
		}
		sent := encode(t, o)
		if !strings.Contains(sent, `"0000-01-01T`) && !strings.Contains(sent, `"9999-12-31T`) { // in UTC these may have years without a number
			again, err := Decode([]byte(sent), r, V1Beta1)
			if err != nil {
				t.Fatalf("%s\ncannot be read: %v", sent, err)
			}
			same(t, encode(t, again), sent)
		}
		first, err := create(o)
		if err != nil || show(first) == nil {
			return
		}
		second, err := create(show(first))
		if err != nil {
			t.Fatalf("what is shown cannot be created: %v", err)
		}
		if !equality.Semantic.DeepEqual(first, second) {
			t.Fatalf("v1 has\n%s\nand after it was shown and created again\n%s", encode(t, first), encode(t, second))
		}
		same(t, encode(t, show(second)), encode(t, show(first)))
	})
}
