package chrome

import (
	"os/exec"
	"strings"
	"testing"
)

func TestBlindProgramGetsNothingAboutInterfaces(t *testing.T) {
	if said, err := exec.Command("ip", "link").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	cmd := exec.Command("ip", "link")
	blind(cmd)
	if said, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(said), "netlink socket") {
		t.Errorf("it says %s, %v", said, err)
	}
}
