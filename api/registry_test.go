package api_test

import (
	"strings"
	"testing"

	"github.com/k8sm/k8sm/api"
)

func TestRegistryIsAHostAsInNamesOfImages(t *testing.T) {
	for _, host := range []string{"harbor.example", "harbor.example:8443", "10.0.0.1", "10.0.0.1:5000", "[fd00::1]:5000", "localhost", "harbor:80", "docker.io"} {
		if err := api.CheckRegistry(host); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
	for host, want := range map[string]string{
		"https://harbor.example": "give the registry as the names of images have it",
		"harbor.example/team":    "is not a registry",
		"":                       "is not a registry",
		"..":                     "is not a registry",
		"../x.y":                 "is not a registry",
		"harbor.example:x":       "is not a registry",
		"h_.example":             "is not a registry",
		"harbor":                 "stands for Docker Hub, or for a folder of it",
		"index.docker.io":        "stands for Docker Hub",
	} {
		if err := api.CheckRegistry(host); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", host, err, want)
		}
	}
}

func TestMinionsTakeNoFolderForARegistry(t *testing.T) {
	err := api.MinionConfig{RegistryCAs: map[string][]byte{"../../cron.d": nil}}.Validate()
	if err == nil || !strings.Contains(err.Error(), "--registry-ca") {
		t.Errorf("got %v", err)
	}
}

func TestImagesAreRewrittenToNamesOfImagesAndOnce(t *testing.T) {
	for _, good := range []map[string]string{
		nil,
		{"docker.io": "harbor.example/hub", "registry.k8s.io": "harbor.example/k8s"},
		{"harbor:80": "10.0.0.1:5000", "localhost": "harbor.example/a/b-c_d"},
	} {
		if err := (api.MinionConfig{ImageRewrites: good}).Validate(); err != nil {
			t.Errorf("%v: %v", good, err)
		}
	}
	for want, bad := range map[string]map[string]string{
		`"hub" stands for Docker Hub`:                                   {"hub": "harbor.example"},
		`"harbor" stands for Docker Hub`:                                {"docker.io": "harbor/hub"},
		"give the target without a scheme":                              {"docker.io": "https://harbor.example/hub"},
		`"harbor.example/Hub" cannot begin the name of an image`:        {"docker.io": "harbor.example/Hub"},
		`"harbor.example/" cannot begin the name of an image`:           {"docker.io": "harbor.example/"},
		`"harbor.example/hub:1" cannot begin the name of an image`:      {"docker.io": "harbor.example/hub:1"},
		"=docker.io/hub: the images of docker.io are pulled from else":  {"docker.io": "docker.io/hub"},
		"=b.example/x: the images of b.example are pulled from elsewhe": {"a.example": "b.example/x", "b.example": "c.example"},
	} {
		if err := (api.MinionConfig{ImageRewrites: bad}).Validate(); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "cannot use --image-rewrite=") {
			t.Errorf("%v: got %v, want %q", bad, err, want)
		}
	}
}
