package gateway

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

func TestOperationsAreForgottenInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOperations()
		o.keep("alice", answer{200, []byte("first")})
		time.Sleep(operationLife / 2)
		o.keep("alice", answer{200, []byte("second")})
		time.Sleep(operationLife/2 - 1)
		if a, ok := o.find("alice", "1"); !ok || string(a.body) != "first" {
			t.Errorf("just before its end: %v %q", ok, a.body)
		}
		time.Sleep(time.Nanosecond)
		if _, ok := o.find("alice", "1"); ok {
			t.Error("it outlives its time")
		}
		if ids := o.ids("alice"); len(ids) != 1 || ids[0] != "2" {
			t.Errorf("left are %q", ids)
		}
	})
}

func TestOperationsAreBounded(t *testing.T) {
	o := newOperations()
	for i := range maxOperations + 10 {
		o.keep(fmt.Sprintf("caller %d", i%2), answer{200, []byte("x")})
	}
	if o.kept.Len() != maxOperations || len(o.byID) != maxOperations || o.bytes != maxOperations {
		t.Errorf("%d operations, %d ids, %d bytes", o.kept.Len(), len(o.byID), o.bytes)
	}
	if ids := o.ids("caller 1"); len(ids) != maxOperations/2 || ids[0] != "12" {
		t.Errorf("%d of a caller, from %s", len(ids), ids[0])
	}
	for range 10 {
		o.keep("big", answer{200, make([]byte, operationBytes/4)})
	}
	if o.bytes > operationBytes || o.kept.Len() != 4 {
		t.Errorf("%d operations, %d bytes", o.kept.Len(), o.bytes)
	}
	o.keep("huge", answer{200, make([]byte, operationBytes+1)})
	if o.bytes != 0 || o.kept.Len() != 0 || len(o.byID) != 0 {
		t.Errorf("%d operations, %d bytes", o.kept.Len(), o.bytes)
	}
}
