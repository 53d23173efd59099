package ui

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
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
	issuerTime   = 15 * time.Second // for an answer of the issuer
	maxReturn    = 2000             // bytes of the path to which a log-in leads back
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

// issuer logs people in. Its methods may be called concurrently.
type issuer struct {
	OIDC
	server *Server
	http   *http.Client

	mu       sync.Mutex // guards provider
	provider *oidc.Provider
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
	return &issuer{OIDC: o, server: s, http: &http.Client{Transport: transport, Timeout: issuerTime}}, nil
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
	state, nonce, verifier := random(), random(), oauth2.GenerateVerifier()
	// The browser keeps what belongs to its log-in, so strangers who begin many take nothing of the server. Lax, because the issuer's
	// page leads back here.
	to := base64.RawURLEncoding.EncodeToString([]byte(ownPath(r.URL.Query().Get("to"))))
	http.SetCookie(w, i.cookie(strings.Join([]string{state, nonce, verifier, to}, "."), askingLife))
	http.Redirect(w, r, i.config(provider, redirect(r)).AuthCodeURL(state, oidc.Nonce(nonce), oauth2.S256ChallengeOption(verifier)), http.StatusFound)
}

// ownPath is a path of this server's page with its query. What could lead to another server becomes "/".
func ownPath(to string) string {
	at, err := url.Parse(to)
	if err != nil || len(to) > maxReturn || at.Scheme != "" || at.Host != "" || at.User != nil || !strings.HasPrefix(to, "/") ||
		strings.HasPrefix(to, "//") || strings.ContainsAny(to, "\\\r\n\t") {
		return "/"
	}
	return to
}

// redirect is where the issuer sends people back to.
func redirect(r *http.Request) string { return "https://" + r.Host + callbackPath }

func (i *issuer) cookieName() string { return i.server.cookie + "-login" }

func (i *issuer) cookie(value string, life time.Duration) *http.Cookie {
	return &http.Cookie{Name: i.cookieName(), Value: value, Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode, MaxAge: int(life.Seconds())}
}

// end takes somebody back from the issuer, and begins a session.
func (i *issuer) end(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	var begun []string
	if cookie, err := r.Cookie(i.cookieName()); err == nil {
		begun = strings.Split(cookie.Value, ".")
	}
	http.SetCookie(w, i.cookie("", -time.Second))
	switch {
	case len(begun) != 4 || begun[0] != query.Get("state"): // somebody else's log-in, or an old one
		i.fail(w, r, "old", errors.New("the browser did not begin this log-in, or too long ago"))
		return
	case query.Get("error") != "":
		i.fail(w, r, "denied", fmt.Errorf("the OpenID Connect issuer says %s: %s", query.Get("error"), query.Get("error_description")))
		return
	}
	who, err := i.exchange(r, query.Get("code"), begun[1], begun[2])
	if err != nil {
		i.fail(w, r, "unknown", err)
		return
	}
	if i.server.start(w, r, who) {
		to, _ := base64.RawURLEncoding.DecodeString(begun[3]) // what is broken leads to "/"
		http.Redirect(w, r, ownPath(string(to)), http.StatusFound)
	}
}

// exchange gets the token for a code, and asks the API server whose it is.
func (i *issuer) exchange(r *http.Request, code, nonce, verifier string) (*caller, error) {
	provider, err := i.find()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(oidc.ClientContext(r.Context(), i.http), issuerTime)
	defer cancel()
	tokens, err := i.config(provider, redirect(r)).Exchange(ctx, code, oauth2.VerifierOption(verifier))
	if err != nil {
		return nil, fmt.Errorf("cannot get a token of the OpenID Connect issuer: %w", err)
	}
	raw, _ := tokens.Extra("id_token").(string)
	token, err := provider.Verifier(&oidc.Config{ClientID: i.ClientID}).Verify(ctx, raw)
	if err != nil {
		return nil, fmt.Errorf("cannot use the OpenID Connect issuer's token: %w", err)
	}
	if token.Nonce != nonce {
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
