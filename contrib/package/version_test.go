package main

import (
	"os/exec"
	"testing"
)

// TestPackagesAreNewerAsKMIs holds the order of packages' versions, as dpkg has it, to that of km's.
func TestPackagesAreNewerAsKMIs(t *testing.T) {
	newer := []string{
		"dev",
		"2ae587d+20261130T221500Z",
		"2ae587d-dirty+20261130T221500Z",
		"3be587d+20261201T221500Z",
		"v0.1.0-rc.1",
		"v0.1.0-rc.2",
		"v0.1.0",
		"v0.1.0-2-g2ae587d+20261130T221500Z",
		"v0.1.0-11-g3be587d+20261129T221500Z",
		"v0.1.1",
		"v0.10.0",
	}
	for i, version := range newer[1:] {
		before, after := packageVersion(newer[i]), packageVersion(version)
		if err := exec.Command("dpkg", "--compare-versions", before, "lt", after).Run(); err != nil {
			t.Errorf("%s (%s) is not newer than %s (%s) for dpkg: %v", version, after, newer[i], before, err)
		}
	}
}
