package cri

import (
	"slices"
	"testing"
)

func TestDigestAmongTagsIsNoTag(t *testing.T) {
	const digest = "k8sm.test/web@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	got := new(Server).image("sha256:1", []string{digest, "<none>:<none>", "k8sm.test/web:1"}, []string{digest}, 5)
	if !slices.Equal(got.RepoTags, []string{"k8sm.test/web:1"}) || !slices.Equal(got.RepoDigests, []string{digest}) {
		t.Errorf("the image is %v", got)
	}
}
