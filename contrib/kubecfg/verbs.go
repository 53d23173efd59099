package kubecfg

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strings"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/k8sm/k8sm/api/v1beta1"
)

// resourceNames is how messages list them. Those of events and endpoints are not among them, as they were not in 2014.
const resourceNames = "minions|pods|replicationControllers|services"

// resourceVerbs work on any resource.
var resourceVerbs = map[string]verb{
	"get":    (*kubecfg).get,
	"list":   (*kubecfg).list,
	"create": (*kubecfg).create,
	"update": (*kubecfg).updateObject,
	"delete": (*kubecfg).delete,
	"print":  (*kubecfg).printSource,
}

// resource is what the first argument of a verb names: a kind of object, or one object.
type resource struct {
	v1beta1.Resource
	path string // NAME or NAME/ID
	one  bool   // the path has an id
}

// resourceIn reads the argument. It is not ok without one of those that this package prints.
func resourceIn(args []string) (r resource, ok bool) {
	if len(args) < 2 {
		return r, false
	}
	name, id, _ := strings.Cut(strings.Trim(args[1], "/"), "/")
	r.Resource, ok = v1beta1.ResourceNamed(name)
	r.path, r.one = path.Join(r.Name, id), id != ""
	return r, ok && tables[r.Kind] != nil
}

// named reads the argument of a verb that is for all objects of a resource, or for one of them. usage is how a message shows the
// latter's id.
func named(args []string, one bool, usage string) (resource, error) {
	r, ok := resourceIn(args)
	if !ok || r.one != one {
		return r, sayf("usage: kubecfg [OPTIONS] %s <%s>%s", args[0], resourceNames, usage)
	}
	return r, nil
}

func (k *kubecfg) get(ctx context.Context, args []string) error {
	r, err := named(args, true, "[/<id>]")
	if err != nil {
		return err
	}
	return k.exchange(ctx, request{method: http.MethodGet, path: r.path})
}

func (k *kubecfg) list(ctx context.Context, args []string) error {
	r, err := named(args, false, "")
	if err != nil {
		return err
	}
	query, err := k.selectors()
	if err != nil {
		return after("Got request error", err)
	}
	return k.exchange(ctx, request{method: http.MethodGet, path: r.path, query: query})
}

// selectors are -l and -fields as a query.
func (k *kubecfg) selectors() (url.Values, error) {
	query := url.Values{}
	if k.labels != "" {
		selector, err := labels.Parse(k.labels)
		if err != nil {
			return nil, fmt.Errorf("cannot use -l %s: %w", k.labels, err)
		}
		query.Set("labels", selector.String())
	}
	if k.fields != "" {
		selector, err := fields.ParseSelector(k.fields)
		if err != nil {
			return nil, fmt.Errorf("cannot use -fields %s: %w", k.fields, err)
		}
		query.Set("fields", selector.String())
	}
	return query, nil
}

func (k *kubecfg) create(ctx context.Context, args []string) error {
	r, err := named(args, false, "")
	if err != nil {
		return err
	}
	object, err := k.readObject(ctx, r)
	if err != nil {
		return err
	}
	return k.write(ctx, http.MethodPost, r, object)
}

// updateObject writes the object of -c over the one that is there, of whatever version that is.
func (k *kubecfg) updateObject(ctx context.Context, args []string) error {
	r, err := named(args, true, "/<id>")
	if err != nil {
		return err
	}
	object, err := k.readObject(ctx, r)
	if err != nil {
		return err
	}
	answer, err := k.send(ctx, request{method: http.MethodGet, path: r.path})
	if err != nil {
		return after("error obtaining resource version for update", err)
	}
	var there v1beta1.Meta
	if err := json.Unmarshal(answer, &there); err != nil {
		return after("error finding json base for update", err)
	}
	object.Base().ResourceVersion = there.ResourceVersion
	return k.write(ctx, http.MethodPut, r, object)
}

func (k *kubecfg) delete(ctx context.Context, args []string) error {
	r, err := named(args, true, "/<id>")
	if err != nil {
		return err
	}
	return k.exchange(ctx, request{method: http.MethodDelete, path: r.path})
}

// printSource prints the object of -c, and sends nothing.
func (k *kubecfg) printSource(ctx context.Context, args []string) error {
	r, ok := resourceIn(args)
	if !ok {
		return sayf("usage: kubecfg [OPTIONS] -c <file|url|-> print <%s>", resourceNames)
	}
	object, err := k.readObject(ctx, r)
	if err != nil {
		return err
	}
	text, err := json.Marshal(object)
	if err != nil {
		return err
	}
	p, err := k.printer()
	if err != nil {
		return err
	}
	return k.print(p, text)
}

// write sends an object and prints the answer.
func (k *kubecfg) write(ctx context.Context, method string, r resource, object v1beta1.Object) error {
	body, err := json.Marshal(object)
	if err != nil {
		return err
	}
	return k.exchange(ctx, request{method: method, path: r.path, body: body})
}

// exchange sends a request and prints the answer and an empty line.
func (k *kubecfg) exchange(ctx context.Context, r request) error {
	p, err := k.printer()
	if err != nil {
		return err
	}
	answer, err := k.send(ctx, r)
	if err != nil {
		return after("Got request error", err)
	}
	if err := k.print(p, answer); err != nil {
		return err
	}
	_, err = fmt.Fprintln(k.Out)
	return err
}

func (k *kubecfg) print(p printer, object []byte) error {
	if err := p(k.Out, object); err != nil {
		return sayf("Failed to print: %v\nRaw received text:\n%s", err, strings.TrimSpace(beginning(object)))
	}
	return nil
}
