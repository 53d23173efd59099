package minion

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/k8sm/k8sm/api/statedir"
)

func TestCertificateThatWasNotRenewedIsAProblemOfTheNode(t *testing.T) {
	dir, made := statedir.Dir(t.TempDir()), time.Now()
	if err := dir.Prepare(statedir.Spec{Now: made, ServerURL: "https://127.0.0.1", ServerNames: []string{"127.0.0.1"}, EtcdNames: []string{"127.0.0.1"}}); err != nil {
		t.Fatal(err)
	}
	certFile, _ := dir.Pair(statedir.SchedulerServer) // good for a year
	files := map[string]string{"node": certFile, "node-server": filepath.Join(string(dir), "none yet")}
	for days, want := range map[int]int{0: 0, 300: 0, 330: 0, 345: 1, 400: 1} {
		problems := overdue(files, made.AddDate(0, 0, days))
		if len(problems) != want || want > 0 && !strings.HasPrefix(problems[0], "the certificate node ends ") {
			t.Errorf("after %d days: %q", days, problems)
		}
	}
}
