package ui

import (
	"crypto/tls"
	"testing"

	"github.com/k8sm/k8sm/api/certfile"
)

func TestPageAtAnAddressIsServedUnderIt(t *testing.T) {
	pair, err := selfSigned(Config{Address: "192.0.2.7:8444"}.Names())
	if err != nil {
		t.Fatal(err)
	}
	named, err := selfSigned(Config{Address: "ui.example:8444"}.Names())
	if err != nil {
		t.Fatal(err)
	}
	for host, p := range map[string]tls.Certificate{"192.0.2.7:8444": pair, "127.0.0.1:8444": pair, "ui.example": named, "localhost:8444": named} {
		if s := (&Server{pair: certfile.FixedPair(&p)}); !s.known(host) {
			t.Errorf("requests for %s are refused", host)
		}
	}
}
