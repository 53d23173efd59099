package gateway

import (
	"context"
	"net/http"

	"github.com/google/uuid"

	"github.com/k8sm/k8sm/api/v1beta1"
)

// do answers a call that has one answer: what work returns, an object or an error. Calls wait while too many are under way, because
// each brings objects into memory.
func (g *gateway) do(w http.ResponseWriter, c *call, places *shared, work func(ctx context.Context) (v1beta1.Object, error)) error {
	ctx, cancel, err := c.within()
	if err != nil {
		return err
	}
	defer cancel()
	giveBack, err := places.take(ctx, c.caller.key)
	if err != nil {
		return busy("the server works on other requests, or on yours: try again later")
	}
	defer giveBack()
	o, err := work(ctx)
	if err != nil {
		return statusOf(err, c.resource.Resource, c.id)
	}
	a, err := answerOf(o)
	if err == nil {
		a.write(w)
	}
	return err
}

// get answers GET /RES/ID.
func (g *gateway) get(w http.ResponseWriter, c *call) error {
	return g.do(w, c, g.requests, func(ctx context.Context) (v1beta1.Object, error) {
		o, err := c.resource.open(c.caller, c.inNamespace()).get(ctx, c.id)
		if err != nil {
			return nil, err
		}
		return c.named(o), nil
	})
}

// named completes an object for an answer.
func (c *call) named(o v1beta1.Object) v1beta1.Object {
	base := o.Base()
	base.Kind, base.APIVersion, base.SelfLink = c.resource.Kind, c.version, v1beta1.SelfLink(c.version, c.resource.Name, base.ID, base.Namespace)
	return o
}

// list answers GET /RES.
func (g *gateway) list(w http.ResponseWriter, c *call) error {
	return g.do(w, c, g.lists, func(ctx context.Context) (v1beta1.Object, error) {
		if err := c.selectFields(); err != nil {
			return nil, err
		}
		o, err := c.resource.open(c.caller, c.everywhere()).list(ctx, c.options)
		if err != nil {
			return nil, err
		}
		base := o.Base()
		base.Kind, base.APIVersion, base.SelfLink = c.resource.ListKind, c.version, v1beta1.SelfLink(c.version, c.resource.Name, "", "")
		return o, nil
	})
}

// selectFields translates the selector of fields.
func (c *call) selectFields() (err error) {
	c.options.FieldSelector, err = v1beta1.FieldSelector(c.resource.Resource, c.options.FieldSelector)
	return err
}

// change answers a call that changes something, and keeps the answer as an operation's. Work gets the object in the body, unless the
// call deletes. Errors carry the link that they had in 2014.
func (g *gateway) change(w http.ResponseWriter, c *call, work func(ctx context.Context, in v1beta1.Object) (v1beta1.Object, error)) error {
	return g.do(w, c, g.requests, func(ctx context.Context) (v1beta1.Object, error) {
		if err := c.caller.prove(ctx); err != nil { // no stranger may make us read megabytes of YAML
			return nil, err
		}
		var in v1beta1.Object
		if c.Method != http.MethodDelete {
			var err error
			if in, err = g.decode(ctx, w, c); err != nil {
				return nil, err
			}
		}
		o, err := work(ctx, in)
		if err != nil {
			s := statusOf(err, c.resource.Resource, c.id)
			if c.Method != http.MethodDelete && s.Code != http.StatusBadRequest && s.Code != http.StatusUnprocessableEntity {
				s.SelfLink = c.URL.Path
			}
			o = s
		}
		o.Base().APIVersion = c.version
		if a, err := answerOf(o); err == nil {
			g.operations.keep(c.caller.key, a)
		}
		return o, nil
	})
}

// create answers POST /RES.
func (g *gateway) create(w http.ResponseWriter, c *call) error {
	return g.change(w, c, func(ctx context.Context, in v1beta1.Object) (v1beta1.Object, error) {
		base := in.Base()
		if base.ID == "" && (c.resource.Kind == "Pod" || c.resource.Kind == "ReplicationController") {
			base.ID = uuid.NewString()
		}
		base.ResourceVersion, c.id = 0, base.ID
		o, err := c.resource.open(c.caller, c.inNamespace()).create(ctx, in)
		if err != nil {
			return nil, err
		}
		if s, ok := o.(*v1beta1.Status); ok {
			s.SelfLink = c.URL.Path
			return s, nil
		}
		return c.named(o), nil
	})
}

// update answers PUT /RES/ID.
func (g *gateway) update(w http.ResponseWriter, c *call) error {
	return g.change(w, c, func(ctx context.Context, in v1beta1.Object) (v1beta1.Object, error) {
		base := in.Base()
		if base.ID != "" && v1beta1.NameOf(base.ID) != v1beta1.NameOf(c.id) {
			return nil, badRequest("the object has the id %q, and the path %q", base.ID, c.id)
		}
		base.ID = c.id
		o, err := c.resource.open(c.caller, c.inNamespace()).update(ctx, in)
		if err != nil {
			return nil, err
		}
		return c.named(o), nil
	})
}

// remove answers DELETE /RES/ID.
func (g *gateway) remove(w http.ResponseWriter, c *call) error {
	return g.change(w, c, func(ctx context.Context, _ v1beta1.Object) (v1beta1.Object, error) {
		if err := c.resource.open(c.caller, c.inNamespace()).remove(ctx, c.id); err != nil {
			return nil, err
		}
		return v1beta1.Succeeded(), nil
	})
}

// decode reads the object in the body, and makes its namespace and the call's the same. Large objects are read while little else is,
// and do not wait for that: small ones would wait behind them.
func (g *gateway) decode(ctx context.Context, w http.ResponseWriter, c *call) (v1beta1.Object, error) {
	data, err := c.body(w)
	if err != nil {
		return nil, err
	}
	size := int64(len(data))
	if size > smallObject && !g.decoding.TryAcquire(size) {
		return nil, busy("the server reads other large objects: try again later")
	}
	if size <= smallObject && g.decoding.Acquire(ctx, size) != nil {
		return nil, busy("the server reads other objects: try again later")
	}
	defer g.decoding.Release(size)
	o, err := v1beta1.Decode(data, c.resource.Resource, c.version)
	if err != nil {
		return nil, err
	}
	base := o.Base()
	if c.namespace == "" {
		c.namespace = base.Namespace
	}
	if err := checkNamespace(c.namespace); err != nil {
		return nil, err
	}
	if ns := c.inNamespace(); base.Namespace != "" && ns != "" && base.Namespace != ns {
		return nil, badRequest("the object has the namespace %q, and the query %q", base.Namespace, ns)
	}
	base.Namespace = c.inNamespace()
	return o, nil
}
