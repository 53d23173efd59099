package minion

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
)

func TestProxyFindsTheSmallProgramBeforeTheMachinesNft(t *testing.T) {
	n := &node{files: layout{t.TempDir()}, log: logrus.WithField("node", "n")}
	n.env.Sandbox = t.TempDir()
	if err := n.files.make(); err != nil {
		t.Fatal(err)
	}
	if err := n.runProxy(t.Context()); err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(filepath.Join(n.env.Sandbox, "proxy.log"))
	if err != nil {
		t.Fatal(err)
	}
	if found := strings.TrimSpace(string(log)); found != filepath.Join(n.files.tools(), "nft") {
		t.Errorf("kube-proxy runs %q as nft: has make built the small programs?", found)
	}
}
