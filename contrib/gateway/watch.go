package gateway

import (
	"encoding/json"
	"net/http"
	"strconv"
)

// watch answers GET /watch/RES: a line of JSON for each event, until the client or the API server ends it.
func (g *gateway) watch(w http.ResponseWriter, c *call) error {
	if !g.watches.tryTake() {
		return busy("%d watches are open already: close some, or start the control plane with a larger --v1beta1-max-watches", cap(g.watches))
	}
	defer g.watches.giveBack()
	if err := c.checkQuery(); err != nil {
		return err
	}
	if err := c.selectFields(); err != nil {
		return err
	}
	if version := c.query.Get("resourceVersion"); version != "" && version != "0" {
		if _, err := strconv.ParseUint(version, 10, 64); err != nil {
			return badRequest("resourceVersion %q is not a number", version)
		}
		c.options.ResourceVersion = version
	}
	events, err := c.resource.open(c.caller, c.everywhere()).watch(c.Context(), c.options)
	if err != nil {
		return statusOf(err, c.resource.Resource, "")
	}
	client := patiently(w)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	if client.flush() != nil {
		return nil // the client has gone, here and below
	}
	for e := range events {
		base := e.Object.Base()
		if base.APIVersion = c.version; base.Kind == "" {
			base.Kind = c.resource.Kind
		}
		line, err := json.Marshal(e)
		if err != nil {
			return nil // the answer has begun, so it can only end
		}
		if _, err := client.Write(append(line, '\n')); err != nil {
			return nil
		}
		if client.flush() != nil {
			return nil
		}
	}
	return nil
}
