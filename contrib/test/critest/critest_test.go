package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// constants is what the suite's own look like, with the neighbours that must stay as they are.
const constants = `const (
	registry = "gcr.io/k8s-staging-cri-tools/"

	testImageUserUID = registry + "test-image-user-uid"
	testLinuxImageWithDigest        = registry + "test-image-digest@sha256:9700f9a2f5bf2c45f2f605a0bd3bce7cf37420ec9d3ed50ac2758413308766bf"
	testWindowsImageWithDigest        = registry + "win-test-image-digest@sha256:0e8cc62aee4ed03eb85150eb86e5d1fd7bda705511b8951fe6507835cbd34be3"
)
`

func TestSuiteIsRedirectedToOurRegistryAndDigest(t *testing.T) {
	got, err := redirected([]byte(constants), "127.0.0.1:35001", "sha256:abc")
	if err != nil {
		t.Fatal(err)
	}
	want := strings.NewReplacer("gcr.io/k8s-staging-cri-tools/", "127.0.0.1:35001/",
		"sha256:9700f9a2f5bf2c45f2f605a0bd3bce7cf37420ec9d3ed50ac2758413308766bf", "sha256:abc").Replace(constants)
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
}

func TestSuiteWithOtherConstantsIsRefused(t *testing.T) {
	for _, text := range []string{"", constants + constants, strings.Replace(constants, "test-image-digest@", "renamed@", 1)} {
		if _, err := redirected([]byte(text), "127.0.0.1:1", "sha256:abc"); err == nil {
			t.Errorf("%.40q… was taken", text)
		}
	}
}

func TestOnlyUnusedSegmentsOfTheSuitesSizeAreItsOwn(t *testing.T) {
	const table = `       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime                   rss                  swap
 858245670          3   644               1048576  1227     0      0     0     0     0     0          0          0 1795379000                     0                     0
 858245671          4   644               1048576  1228     0      2     0     0     0     0          0          0 1795379000                     0                     0
 858245672          5   644               2097152  1229     0      0     0     0     0     0          0          0 1795379000                     0                     0
`
	if diff := cmp.Diff([]int{3}, abandonedSegments(table)); diff != "" {
		t.Error(diff)
	}
}
