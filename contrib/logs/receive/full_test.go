package receive

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/sirupsen/logrus/hooks/test"

	"github.com/k8sm/k8sm/api/logs"
	"github.com/k8sm/k8sm/contrib/logs/store"
)

// disk is a store whose disk may be full.
type disk struct {
	full  bool
	taken int
}

func (d *disk) Add(entries []store.Entry) error {
	if d.full {
		return store.ErrFull
	}
	d.taken += len(entries)
	return nil
}

func (*disk) Sync() error { return nil }

func (*disk) Query(context.Context, store.Tenant, map[string]string, string, func(store.Block) error) error {
	return nil
}

func TestFullDiskIsSaidOnceAndBatchesWaitForRoom(t *testing.T) {
	told := test.NewGlobal()
	d := &disk{full: true}
	s := New(d, onNode{}, 0)
	session := s.node("a", false).open()
	send := func() *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		body := bytes.NewReader(batchOf(source("web"), entry(0, 10, "x")))
		s.Serve(w, httptest.NewRequest(http.MethodPost, logs.PathSessions+"/"+session.ID+"/batches/1", body), "a")
		return w
	}
	for range 3 {
		if w := send(); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" || !strings.Contains(w.Body.String(), "disk is full") {
			t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
		}
	}
	d.full = false
	for range 2 {
		if w := send(); w.Code != http.StatusOK {
			t.Errorf("when there is room again: %d %s", w.Code, w.Body)
		}
	}
	if d.taken != 1 {
		t.Errorf("%d entries were taken", d.taken)
	}
	var messages []string
	for _, e := range told.AllEntries() {
		messages = append(messages, e.Message)
	}
	if len(messages) != 2 || !strings.Contains(messages[0], "takes nothing more") || !strings.Contains(messages[1], "there is room") {
		t.Errorf("the log has %q", messages)
	}
}
