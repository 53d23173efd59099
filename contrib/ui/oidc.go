package ui

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/coreos/go-oidc"
	"github.com/sirupsen/logrus"
	"golang.org/x/oauth2"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/cert"
)

const (
	callbackPath = "/auth/callback"
	askingLife   = 10 * time.Minute // for somebody to log in at the issuer
	maxAsking    = 1000             // that do so at once
	issuerTime   = 15 * time.Second // for an answer of the issuer
)

// OIDC configures logging in by OpenID Connect (https://openid.net/specs/openid-connect-core-1_0.html), as the API server does: the page
// gets a token for the client, by authorization code with PKCE, and the API server decides whose it is.
type OIDC struct {
	// IssuerURL is the issuer's, which has https; "" for none.
	IssuerURL string
	// ClientID is the client that tokens are for.
	ClientID string
	// CAFile is the CA of the issuer's certificate; "" for those of the machine.
	CAFile string
}

func (o OIDC) validate(flag func(string) string) error {
	if o.IssuerURL == "" {
		if o.ClientID != "" || o.CAFile != "" {
			return fmt.Errorf("cannot use --%s or --%s without --%s", flag("oidc-client-id"), flag("oidc-ca-file"), flag("oidc-issuer-url"))
		}
		return nil
	}
	if at, err := url.Parse(o.IssuerURL); err != nil || at.Scheme != "https" || at.Host == "" {
		return fmt.Errorf("cannot use --%s=%s: give a URL that begins with https://", flag("oidc-issuer-url"), o.IssuerURL)
	}
	if o.ClientID == "" {
		return fmt.Errorf("cannot use --%s without --%s", flag("oidc-issuer-url"), flag("oidc-client-id"))
	}
	if o.CAFile != "" {
		if _, err := cert.NewPool(o.CAFile); err != nil {
			return fmt.Errorf("cannot use --%s: %w", flag("oidc-ca-file"), err)
		}
	}
	return nil
}

// asking is somebody who was sent to the issuer.
type asking struct {
	nonce, verifier, redirect string
	expires                   time.Time
}

// issuer logs people in. Its methods may be called concurrently.
type issuer struct {
	OIDC
	server *Server
	http   *http.Client

	mu       sync.Mutex // guards the rest
	provider *oidc.Provider
	asking   map[secret]asking // by state
}

func newIssuer(o OIDC, s *Server) (*issuer, error) {
	transport := &http.Transport{TLSHandshakeTimeout: issuerTime, Proxy: http.ProxyFromEnvironment}
	if o.CAFile != "" {
		roots, err := cert.NewPool(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("cannot read the CA of the OpenID Connect issuer: %w", err)
		}
		transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}
	}
	return &issuer{OIDC: o, server: s, http: &http.Client{Transport: transport, Timeout: issuerTime}, asking: map[secret]asking{}}, nil
}

// find asks the issuer how to log in, once it is needed.
func (i *issuer) find() (*oidc.Provider, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.provider != nil {
		return i.provider, nil
	}
	// The provider fetches keys with this context whenever it needs new ones, so it is no request's.
	provider, err := oidc.NewProvider(oidc.ClientContext(context.Background(), i.http), i.IssuerURL)
	if err != nil {
		return nil, fmt.Errorf("cannot ask the OpenID Connect issuer %s: %w", i.IssuerURL, err)
	}
	i.provider = provider
	return provider, nil
}

// config is the client's. It asks for groups only of an issuer that tells them.
func (i *issuer) config(provider *oidc.Provider, redirect string) *oauth2.Config {
	var supports struct {
		Scopes []string `json:"scopes_supported"`
	}
	_ = provider.Claims(&supports) // an issuer need not say
	scopes := []string{oidc.ScopeOpenID}
	for _, scope := range []string{"profile", "email", "groups"} {
		if slices.Contains(supports.Scopes, scope) {
			scopes = append(scopes, scope)
		}
	}
	return &oauth2.Config{ClientID: i.ClientID, Endpoint: provider.Endpoint(), RedirectURL: redirect, Scopes: scopes}
}

// begin sends somebody to the issuer.
func (i *issuer) begin(w http.ResponseWriter, r *http.Request) {
	provider, err := i.find()
	if err != nil {
		i.fail(w, r, "issuer", err)
		return
	}
	state, a := random(), asking{nonce: random(), verifier: oauth2.GenerateVerifier(), redirect: "https://" + r.Host + callbackPath, expires: time.Now().Add(askingLife)}
	if !i.remember(state, a) {
		i.fail(w, r, "busy", errFull)
		return
	}
	// Lax, because the issuer's page leads back here.
	http.SetCookie(w, &http.Cookie{Name: i.cookie(), Value: state, Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode, MaxAge: int(askingLife.Seconds())})
	http.Redirect(w, r, i.config(provider, a.redirect).AuthCodeURL(state, oidc.Nonce(a.nonce), oauth2.S256ChallengeOption(a.verifier)), http.StatusFound)
}

func (i *issuer) cookie() string { return i.server.cookie + "-login" }

func (i *issuer) remember(state string, a asking) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	for state, old := range i.asking {
		if time.Now().After(old.expires) {
			delete(i.asking, state)
		}
	}
	if len(i.asking) >= maxAsking {
		return false
	}
	i.asking[secretOf(state)] = a
	return true
}

// recall returns what was remembered of a state, once.
func (i *issuer) recall(state string) (asking, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	a, there := i.asking[secretOf(state)]
	delete(i.asking, secretOf(state))
	return a, there && time.Now().Before(a.expires)
}

// end takes somebody back from the issuer, and begins a session.
func (i *issuer) end(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	state := query.Get("state")
	cookie, err := r.Cookie(i.cookie())
	a, known := i.recall(state)
	http.SetCookie(w, &http.Cookie{Name: i.cookie(), Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode, MaxAge: -1})
	switch {
	case err != nil || cookie.Value != state || !known: // somebody else's log-in, or an old one
		i.fail(w, r, "old", errors.New("the browser did not begin this log-in, or too long ago"))
		return
	case query.Get("error") != "":
		i.fail(w, r, "denied", fmt.Errorf("the OpenID Connect issuer says %s: %s", query.Get("error"), query.Get("error_description")))
		return
	}
	who, err := i.exchange(r.Context(), query.Get("code"), a)
	if err != nil {
		i.fail(w, r, "unknown", err)
		return
	}
	if i.server.start(w, r, who) {
		http.Redirect(w, r, "/", http.StatusFound)
	}
}

// exchange gets the token for a code, and asks the API server whose it is.
func (i *issuer) exchange(ctx context.Context, code string, a asking) (*caller, error) {
	provider, err := i.find()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(oidc.ClientContext(ctx, i.http), issuerTime)
	defer cancel()
	tokens, err := i.config(provider, a.redirect).Exchange(ctx, code, oauth2.VerifierOption(a.verifier))
	if err != nil {
		return nil, fmt.Errorf("cannot get a token of the OpenID Connect issuer: %w", err)
	}
	raw, _ := tokens.Extra("id_token").(string)
	token, err := provider.Verifier(&oidc.Config{ClientID: i.ClientID}).Verify(ctx, raw)
	if err != nil {
		return nil, fmt.Errorf("cannot use the OpenID Connect issuer's token: %w", err)
	}
	if token.Nonce != a.nonce {
		return nil, errors.New("the OpenID Connect issuer's token is for another log-in")
	}
	config := rest.CopyConfig(i.server.server)
	config.BearerToken = raw
	who, err := newCaller(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("%w; is the API server's --oidc-issuer-url %s, and its --oidc-client-id %s?", err, i.IssuerURL, i.ClientID)
	}
	who.expires = token.Expiry
	return who, nil
}

// fail shows the page, which says what a word means. What the issuer says is for the log: it could be anybody's text.
func (i *issuer) fail(w http.ResponseWriter, r *http.Request, word string, err error) {
	logrus.WithError(err).WithField("from", r.RemoteAddr).Warn("somebody could not log in to the web page by OpenID Connect")
	http.Redirect(w, r, "/?problem="+word, http.StatusFound)
}
