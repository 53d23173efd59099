package registry

import (
	"encoding/base64"
	"testing"
)

// FuzzConfig reads what users write into secrets.
func FuzzConfig(f *testing.F) {
	for _, seed := range []string{"", "{}", `{"auths":null}`, `{"auths":{"https://h.example/v1/":{"auth":"dTpw"},"*.x/y":{"username":"u"}}}`, `{"auths":{"[":{"auth":"!"}}}`} {
		f.Add(seed, "h.example/x:1")
	}
	f.Fuzz(func(t *testing.T, config, image string) {
		c, err := Parse([]byte(config))
		if err != nil {
			return
		}
		for _, found := range c.For(image) {
			if found == (Credentials{}) {
				t.Errorf("%q has empty credentials for %q", config, image)
			}
			encoded := base64.StdEncoding.EncodeToString([]byte(found.Username + ":" + found.Password))
			if user, _, err := DecodeAuth(encoded); err != nil || len(user) > len(found.Username) {
				t.Errorf("%q is read as %q (%v)", encoded, user, err)
			}
		}
	})
}
