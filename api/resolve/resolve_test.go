package resolve

import (
	"fmt"
	"testing"
)

func TestHostsAreFoundInURLsAndAddresses(t *testing.T) {
	got := Hosts(t.Context(), "https://192.0.2.9:6443", "http://master@192.0.2.8:5050/api", "[2001:db8::1]:2181", "192.0.2.7", "::ffff:192.0.2.9",
		"localhost:80", "no-such-name.invalid", "")
	text := fmt.Sprint(got)
	for _, want := range []string{"[127.0.0.1 192.0.2.7 192.0.2.8 192.0.2.9 2001:db8::1]", "[127.0.0.1 192.0.2.7 192.0.2.8 192.0.2.9 ::1 2001:db8::1]"} {
		if text == want {
			return
		}
	}
	t.Errorf("got %s", text)
}
