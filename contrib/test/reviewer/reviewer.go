// Package reviewer is an API server that only reviews callers of others: TokenReview and SubjectAccessReview
// (https://kubernetes.io/docs/reference/access-authn-authz/webhook/). Start reading at New.
package reviewer

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/k8sm/k8sm/api"
)

// Server is the API server. Its methods may be called concurrently.
type Server struct {
	*httptest.Server
	// Down makes it answer every review with an error.
	Down    atomic.Bool
	reviews atomic.Int32
	grants  func(authorizationv1.SubjectAccessReviewSpec) bool
}

// TokenOf returns the token of a user. Others are not known.
func TokenOf(user string) string { return "token-of-" + user }

// New returns a server that runs until the test ends. grants says what users may do; administrators may do everything.
func New(t testing.TB, grants func(authorizationv1.SubjectAccessReviewSpec) bool) *Server {
	t.Helper()
	s := &Server{grants: grants}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /apis/authentication.k8s.io/v1/tokenreviews", func(w http.ResponseWriter, r *http.Request) {
		var review authenticationv1.TokenReview
		if !s.read(w, r, &review) {
			return
		}
		if user, ok := strings.CutPrefix(review.Spec.Token, TokenOf("")); ok {
			review.Status = authenticationv1.TokenReviewStatus{Authenticated: true, User: authenticationv1.UserInfo{Username: user}}
		}
		answer(w, review)
	})
	mux.HandleFunc("POST /apis/authorization.k8s.io/v1/subjectaccessreviews", func(w http.ResponseWriter, r *http.Request) {
		var review authorizationv1.SubjectAccessReview
		if !s.read(w, r, &review) {
			return
		}
		review.Status.Allowed = slices.Contains(review.Spec.Groups, api.AdminGroup) || s.grants(review.Spec)
		answer(w, review)
	})
	s.Server = httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

// Reviews returns how many reviews it was asked for.
func (s *Server) Reviews() int { return int(s.reviews.Load()) }

// Client returns a client that asks it.
func (s *Server) Client(t testing.TB) kubernetes.Interface {
	t.Helper()
	client, err := kubernetes.NewForConfig(&rest.Config{Host: s.URL, QPS: 100, Burst: 100})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func (s *Server) read(w http.ResponseWriter, r *http.Request, review any) bool {
	s.reviews.Add(1)
	if s.Down.Load() {
		http.Error(w, "it is down", http.StatusInternalServerError)
		return false
	}
	if err := json.NewDecoder(r.Body).Decode(review); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return false
	}
	return true
}

func answer(w http.ResponseWriter, review any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(review)
}
