package ui

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

const (
	listLimit  = 500 // objects of a page of a list
	batchPause = 100 * time.Millisecond
	maxBatch   = 500     // changes
	maxBatched = 1 << 20 // bytes of what the API server sent of them, unless one has more
	maxRetry   = 30 * time.Second

	tableType = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
)

// column is a column of a table.
type column struct {
	Name     string `json:"name"`
	Type     string `json:"type"`
	Priority int32  `json:"priority,omitempty"`
	Help     string `json:"help,omitempty"`
}

// row is a row of a table: what the page shows of an object.
type row struct {
	UID         types.UID         `json:"uid"`
	Namespace   string            `json:"ns,omitempty"`
	Name        string            `json:"name"`
	Cells       []any             `json:"cells"`
	Created     *metav1.Time      `json:"created,omitempty"`
	Deleting    bool              `json:"deleting,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Owner       string            `json:"owner,omitempty"` // KIND/NAME of the controller
}

// follower follows one path for a page.
type follower struct {
	*socket
	call    call
	path    *url.URL
	version string // resourceVersion up to which the page knows all
	columns bool   // whether the page knows the columns
	broken  bool   // whether the page knows that the connection is broken
}

// statusError is an answer of the API server that is no list.
type statusError struct {
	code    int
	message string
}

// Error implements error.
func (e *statusError) Error() string { return e.message }

// final tells whether to ask again is of no use.
func (e *statusError) final() bool {
	return e.code >= 400 && e.code < 500 && e.code != http.StatusTooManyRequests && e.code != http.StatusGone && e.code != http.StatusRequestTimeout
}

// run follows until ctx ends or the API server refuses.
func (f *follower) run(ctx context.Context) {
	for wait := time.Duration(0); ; {
		began := time.Now()
		err := f.follow(ctx)
		var status *statusError
		answered := errors.As(err, &status)
		switch {
		case ctx.Err() != nil:
			return
		case answered && status.final():
			f.send(frame{ID: f.call.ID, State: "ended", Code: status.code, Message: status.message})
			return
		case errors.Is(err, io.EOF) && f.call.Mode == "lines":
			f.send(frame{ID: f.call.ID, State: "ended"})
			return
		}
		if time.Since(began) > maxRetry {
			wait = 0
		}
		gone := answered && status.code == http.StatusGone
		if gone {
			f.version = "" // list anew
		}
		// The API server ends a watch now and then, or has forgotten where it was. At once it goes on; then, the page should know.
		if wait > 0 || err != nil && !gone {
			f.broken = true
			f.send(frame{ID: f.call.ID, State: "reconnecting", Message: why(err)})
		}
		if wait > 0 {
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait/2 + rand.N(wait)):
			}
		}
		wait = min(max(2*wait, time.Second), maxRetry)
	}
}

// why says why a page does not follow.
func why(err error) string {
	if err == nil {
		return "the API server ends each watch at once"
	}
	return err.Error()
}

// follow lists unless the page knows the list, and watches until the watch ends.
func (f *follower) follow(ctx context.Context) error {
	if f.call.Mode == "lines" {
		return f.stream(ctx)
	}
	if f.version == "" {
		if err := f.list(ctx); err != nil {
			return err
		}
	}
	return f.watch(ctx)
}

// with is the path with more of a query.
func (f *follower) with(pairs ...string) *url.URL {
	u := *f.path
	query := u.Query()
	for i := 0; i+1 < len(pairs); i += 2 {
		query.Set(pairs[i], pairs[i+1])
	}
	if f.call.Mode == "table" {
		query.Set("includeObject", "Metadata")
	}
	u.RawQuery = query.Encode()
	return &u
}

func (f *follower) accept() string {
	if f.call.Mode == "table" {
		return tableType
	}
	return "application/json"
}

// open gets a path. The caller closes the body.
func (f *follower) open(ctx context.Context, path *url.URL) (*http.Response, error) {
	response, err := f.who.get(ctx, path, f.accept())
	if err != nil {
		return nil, fmt.Errorf("cannot reach the API server: %w", err)
	}
	if response.StatusCode == http.StatusOK {
		return response, nil
	}
	defer response.Body.Close()
	var status metav1.Status
	data, _ := io.ReadAll(io.LimitReader(response.Body, maxAnswer)) // what is cut off has no message
	if json.Unmarshal(data, &status) != nil || status.Message == "" {
		status.Message = "the API server answers " + response.Status
	}
	return nil, &statusError{code: response.StatusCode, message: status.Message}
}

// listed is a page of a list: a table, or objects.
type listed struct {
	metav1.ListMeta   `json:"metadata"`
	ColumnDefinitions []metav1.TableColumnDefinition `json:"columnDefinitions"`
	Rows              []metav1.TableRow              `json:"rows"`
	Items             []map[string]any               `json:"items"`
}

// list sends the page all there is. Until then the page knows nothing: a list that breaks off begins anew.
func (f *follower) list(ctx context.Context) error {
	next := ""
	for first := true; first || next != ""; first = false {
		response, err := f.open(ctx, f.with("limit", strconv.Itoa(listLimit), "continue", next))
		if err != nil {
			return err
		}
		var page listed
		err = json.NewDecoder(response.Body).Decode(&page)
		response.Body.Close()
		if err != nil {
			return fmt.Errorf("cannot read the list: %w", err)
		}
		out := frame{ID: f.call.ID, Reset: first, Columns: f.columnsOf(page.ColumnDefinitions)}
		for _, r := range page.Rows {
			out.Rows = append(out.Rows, f.rowOf(r))
		}
		for _, item := range page.Items {
			out.Objects = append(out.Objects, f.kept(item))
		}
		if next = page.Continue; next == "" {
			out.State, f.broken, f.version = "live", false, page.ResourceVersion
		}
		f.send(out)
	}
	return nil
}

func (f *follower) columnsOf(definitions []metav1.TableColumnDefinition) (columns []column) {
	if f.columns {
		return nil
	}
	for _, d := range definitions {
		columns = append(columns, column{Name: d.Name, Type: d.Type, Priority: d.Priority, Help: d.Description})
	}
	f.columns = len(columns) > 0
	return columns
}

// rowOf strips a row to what pages show.
func (f *follower) rowOf(r metav1.TableRow) row {
	var object metav1.PartialObjectMetadata
	_ = json.Unmarshal(r.Object.Raw, &object) // a row without metadata has cells only
	out := row{UID: object.UID, Namespace: object.Namespace, Name: object.Name, Cells: r.Cells, Deleting: object.DeletionTimestamp != nil, Labels: object.Labels}
	if !object.CreationTimestamp.IsZero() {
		out.Created = &object.CreationTimestamp
	}
	for _, name := range f.call.Annotations {
		if value, there := object.Annotations[name]; there {
			if out.Annotations == nil {
				out.Annotations = map[string]string{}
			}
			out.Annotations[name] = value
		}
	}
	if owner := metav1.GetControllerOf(&object); owner != nil {
		out.Owner = owner.Kind + "/" + owner.Name
	}
	return out
}

// kept takes what the page does not show from an object.
func (f *follower) kept(object map[string]any) any {
	if metadata, ok := object["metadata"].(map[string]any); ok {
		delete(metadata, "managedFields")
	}
	if len(f.call.Fields) == 0 {
		return object
	}
	out := map[string]any{"metadata": object["metadata"]}
	for _, field := range f.call.Fields {
		path := strings.Split(field, ".")
		if value, found, err := unstructured.NestedFieldNoCopy(object, path...); found && err == nil {
			_ = unstructured.SetNestedField(out, value, path...) // a field within another, which the page asked for too
		}
	}
	return out
}

// event is one of a watch.
type event struct {
	Type   watch.EventType `json:"type"`
	Object json.RawMessage `json:"object"`
}

// watch sends the page what changes, until the watch ends.
func (f *follower) watch(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	response, err := f.open(ctx, f.with("watch", "1", "resourceVersion", f.version, "allowWatchBookmarks", "true")) //nolint:bodyclose // it is closed below
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if f.broken {
		f.broken = false
		f.send(frame{ID: f.call.ID, State: "live"})
	}
	events, problem := make(chan event), make(chan error, 1)
	go func() {
		defer close(events)
		for decoder := json.NewDecoder(response.Body); ; {
			var e event
			if err := decoder.Decode(&e); err != nil {
				problem <- err
				return
			}
			select {
			case events <- e:
			case <-ctx.Done():
				return
			}
		}
	}()
	defer func() { cancel(); response.Body.Close(); drain(events) }()
	for {
		e, ok := <-events
		if !ok {
			return ended(ctx, problem)
		}
		if err := f.batch(e, events); err != nil {
			return err
		}
	}
}

// drain waits for the end of the sender.
func drain(events <-chan event) {
	for range events {
	}
}

// ended is why a watch ended: nil if the API server ended it as it does now and then.
func ended(ctx context.Context, problem <-chan error) error {
	select {
	case err := <-problem:
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		return fmt.Errorf("the watch broke off: %w", err)
	case <-ctx.Done():
		return nil
	}
}

// changes are those of a batch, each object's last.
type changes struct {
	order []string
	last  map[string]any // row, object, or nil if it is gone
}

func (c *changes) put(uid string, what any) {
	if _, there := c.last[uid]; !there {
		c.order = append(c.order, uid)
	}
	c.last[uid] = what
}

// batch sends a change with those that follow soon, in one frame.
func (f *follower) batch(first event, events <-chan event) error {
	all := changes{last: map[string]any{}}
	out := frame{ID: f.call.ID}
	err := f.apply(first, &all, &out)
	pause := time.NewTimer(batchPause)
	defer pause.Stop()
	size := len(first.Object)
	for open := err == nil; open && len(all.order) < maxBatch && size < maxBatched; {
		select {
		case e, ok := <-events:
			if open = ok; ok {
				size += len(e.Object)
				err = f.apply(e, &all, &out)
				open = err == nil
			}
		case <-pause.C:
			open = false
		}
	}
	for _, uid := range all.order {
		switch what := all.last[uid].(type) {
		case nil:
			out.Gone = append(out.Gone, uid)
		case row:
			out.Rows = append(out.Rows, what)
		default:
			out.Objects = append(out.Objects, what)
		}
	}
	if len(all.order) > 0 {
		f.send(out)
	}
	return err
}

// apply takes an event into the changes.
func (f *follower) apply(e event, all *changes, out *frame) error {
	if e.Type == watch.Error {
		var status metav1.Status
		_ = json.Unmarshal(e.Object, &status) // without a code it is an error all the same
		return &statusError{code: int(status.Code), message: status.Message}
	}
	if f.call.Mode != "table" {
		return f.applyObject(e, all)
	}
	var table metav1.Table
	if err := json.Unmarshal(e.Object, &table); err != nil {
		return fmt.Errorf("cannot read a change: %w", err)
	}
	if e.Type == watch.Bookmark {
		f.know(table.ResourceVersion)
		return nil
	}
	if columns := f.columnsOf(table.ColumnDefinitions); columns != nil {
		out.Columns = columns
	}
	for _, r := range table.Rows {
		var object metav1.PartialObjectMetadata
		_ = json.Unmarshal(r.Object.Raw, &object) // as in rowOf
		f.know(object.ResourceVersion)
		if e.Type == watch.Deleted {
			all.put(string(object.UID), nil)
		} else {
			all.put(string(object.UID), f.rowOf(r))
		}
	}
	return nil
}

func (f *follower) applyObject(e event, all *changes) error {
	var object map[string]any
	if err := json.Unmarshal(e.Object, &object); err != nil {
		return fmt.Errorf("cannot read a change: %w", err)
	}
	metadata, _ := object["metadata"].(map[string]any)
	version, _ := metadata["resourceVersion"].(string)
	uid, _ := metadata["uid"].(string)
	f.know(version)
	switch e.Type {
	case watch.Bookmark:
	case watch.Deleted:
		all.put(uid, nil)
	default:
		all.put(uid, f.kept(object))
	}
	return nil
}

// know notes up to which version the page knows all.
func (f *follower) know(version string) {
	if version != "" {
		f.version = version
	}
}

// stream sends the page a log as it comes.
func (f *follower) stream(ctx context.Context) error {
	open := f.open
	if strings.HasPrefix(f.path.Path, mesosPrefix) {
		open = func(ctx context.Context, path *url.URL) (*http.Response, error) {
			return f.server.askScheduler(ctx, f.who, path)
		}
	}
	response, err := open(ctx, f.path)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	f.send(frame{ID: f.call.ID, State: "live", Reset: true})
	for piece := make([]byte, 64<<10); ; {
		n, err := response.Body.Read(piece)
		if n > 0 {
			f.send(frame{ID: f.call.ID, Lines: strings.ToValidUTF8(string(piece[:n]), "\uFFFD")})
		}
		if err != nil {
			return err
		}
	}
}
