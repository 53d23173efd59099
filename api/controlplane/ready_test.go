package controlplane

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// TestAddOnsDoNotWaitForWhatTheAPIServerMakesForOthers has a server that is ready but for its own objects.
func TestAddOnsDoNotWaitForWhatTheAPIServerMakesForOthers(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		excluded := r.URL.Query()["exclude"]
		slices.Sort(excluded)
		if r.URL.Path != "/readyz" || !slices.Equal(excluded, ownObjects) {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	defer server.Close()
	client, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL, QPS: -1})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if err := waitReady(ctx, client, ownObjects...); err != nil {
		t.Error(err)
	}
	if err := waitReady(ctx, client); err == nil {
		t.Error("the server counts as ready without its own objects")
	}
}

func TestAddOnsWaitForAdmission(t *testing.T) {
	forbidden := func(why string) error {
		return apierrors.NewForbidden(schema.GroupResource{Resource: "namespaces"}, "k8sm-dns", errors.New(why))
	}
	for _, test := range []struct {
		err   error
		final bool
	}{
		{forbidden("not yet ready to handle request"), false},
		{forbidden("the operator's policy does not allow it"), true},
		{apierrors.NewBadRequest("no"), true},
		{apierrors.NewInternalError(errors.New("no")), false},
		{nil, false},
	} {
		if got := permanent(test.err); (got != nil) != test.final {
			t.Errorf("%v: %v", test.err, got)
		}
	}
}
