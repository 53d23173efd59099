package gateway

import (
	"container/list"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/k8sm/k8sm/api/v1beta1"
)

const (
	operationLife  = 10 * time.Minute // how long the answer to a finished operation can be read
	maxOperations  = 2000
	operationBytes = 64 << 20 // that their answers take at most
)

// operations are the answers to the latest changes. In 2014 a change could go on after its first answer, and what came of it was read
// from here. This server answers when all is done, so all operations have finished. Nobody reads what others did.
type operations struct {
	now func() time.Time

	mu    sync.Mutex // guards all below
	last  uint64
	bytes int
	byID  map[string]*list.Element
	kept  *list.List // of operation, oldest first
}

type operation struct {
	id, caller string
	ended      time.Time
	answer     answer
}

func newOperations() *operations {
	return &operations{now: time.Now, byID: map[string]*list.Element{}, kept: list.New()}
}

// keep remembers what a caller's change was answered with.
func (o *operations) keep(caller string, a answer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.last++
	op := operation{id: strconv.FormatUint(o.last, 10), caller: caller, ended: o.now(), answer: a}
	o.byID[op.id] = o.kept.PushBack(op)
	o.bytes += len(a.body)
	o.forget()
}

// forget drops what is too old or too much. The lock is held.
func (o *operations) forget() {
	for e := o.kept.Front(); e != nil; e = o.kept.Front() {
		op := e.Value.(operation)
		if o.kept.Len() <= maxOperations && o.bytes <= operationBytes && o.now().Sub(op.ended) < operationLife {
			return
		}
		o.kept.Remove(e)
		delete(o.byID, op.id)
		o.bytes -= len(op.answer.body)
	}
}

// ids are those of a caller's operations, oldest first.
func (o *operations) ids(caller string) (ids []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.forget()
	for e := o.kept.Front(); e != nil; e = e.Next() {
		if op := e.Value.(operation); op.caller == caller {
			ids = append(ids, op.id)
		}
	}
	return ids
}

// find returns what an operation of the caller was answered with.
func (o *operations) find(caller, id string) (answer, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.forget()
	e, ok := o.byID[id]
	if !ok || e.Value.(operation).caller != caller {
		return answer{}, false
	}
	return e.Value.(operation).answer, true
}

// serveOperations answers /operations and /operations/ID.
func (g *gateway) serveOperations(w http.ResponseWriter, c *call, parts []string) error {
	ctx, cancel, err := c.within()
	if err != nil {
		return err
	}
	defer cancel()
	if err := c.caller.prove(ctx); err != nil {
		return err
	}
	if len(parts) == 0 {
		answerList := &v1beta1.OperationList{Meta: v1beta1.Meta{Kind: "ServerOpList", APIVersion: c.version}, Items: []v1beta1.Operation{}}
		for _, id := range g.operations.ids(c.caller.key) {
			answerList.Items = append(answerList.Items, v1beta1.Operation{Meta: v1beta1.Meta{ID: id}})
		}
		return answerObject(w, answerList)
	}
	a, ok := g.operations.find(c.caller.key, parts[0])
	if !ok {
		return v1beta1.NotFound("operation", parts[0])
	}
	a.write(w)
	return nil
}
