package ui

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// provider is an OpenID Connect issuer: whoever comes is ann.
type provider struct {
	*httptest.Server
	t   *testing.T
	key *rsa.PrivateKey

	mu     sync.Mutex // guards the rest
	asked  url.Values // the last request to log in
	nonce  string     // instead of the one that was asked for
	client string     // instead of k8sm
}

var signingKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

func newProvider(t *testing.T) *provider {
	t.Helper()
	key, err := signingKey()
	if err != nil {
		t.Fatal(err)
	}
	p := &provider{t: t, key: key}
	mux := http.NewServeMux()
	p.Server = httptest.NewTLSServer(mux)
	t.Cleanup(p.Close)
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, map[string]any{"issuer": p.URL, "authorization_endpoint": p.URL + "/authorize", "token_endpoint": p.URL + "/token", "jwks_uri": p.URL + "/keys",
			"id_token_signing_alg_values_supported": []string{"RS256"}, "scopes_supported": []string{"openid", "email", "groups"}})
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		encode := base64.RawURLEncoding.EncodeToString
		writeJSON(w, map[string]any{"keys": []any{map[string]string{"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "1", "n": encode(key.N.Bytes()), "e": encode(big.NewInt(int64(key.E)).Bytes())}}})
	})
	mux.HandleFunc("/token", p.serveToken)
	return p
}

// serveToken holds the exchange to RFC 7636: only who began the log-in has the verifier.
func (p *provider) serveToken(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	sum := sha256.Sum256([]byte(r.FormValue("code_verifier")))
	if r.FormValue("code") != "the-code" || base64.RawURLEncoding.EncodeToString(sum[:]) != p.asked.Get("code_challenge") || r.FormValue("redirect_uri") != p.asked.Get("redirect_uri") {
		http.Error(w, `{"error": "invalid_grant"}`, http.StatusBadRequest)
		return
	}
	claims := jwt.MapClaims{"iss": p.URL, "aud": "k8sm", "sub": "ann", "exp": time.Now().Add(time.Hour).Unix(), "iat": time.Now().Unix(), "nonce": p.asked.Get("nonce")}
	if p.nonce != "" {
		claims["nonce"] = p.nonce
	}
	if p.client != "" {
		claims["aud"] = p.client
	}
	token := jwt.NewWithClaims(jwt.SigningMethodRS256, claims)
	token.Header["kid"] = "1"
	signed, err := token.SignedString(p.key)
	if err != nil {
		p.t.Error(err)
	}
	writeJSON(w, map[string]any{"access_token": "x", "token_type": "Bearer", "id_token": signed})
}

// config trusts the issuer's certificate.
func (p *provider) config() Config {
	file := filepath.Join(p.t.TempDir(), "ca.crt")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw}), 0o600); err != nil {
		p.t.Fatal(err)
	}
	return Config{OIDC: OIDC{IssuerURL: p.URL, ClientID: "k8sm", CAFile: file}}
}

// begin goes to the issuer and returns the state.
func (p *provider) begin(b *browser) string {
	p.t.Helper()
	response, said := b.get("/auth/oidc")
	at, err := response.Location()
	if err != nil {
		p.t.Fatalf("%d %s", response.StatusCode, said)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = at.Query()
	return at.Query().Get("state")
}

// knowing is an API server that knows the owner of a token of the issuer.
func knowing(t *testing.T, p *provider) *fakeAPI {
	a := newAPI(t, ok)
	inner := a.Config.Handler
	a.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		if token, err := jwt.Parse(raw, func(*jwt.Token) (any, error) { return &p.key.PublicKey, nil }, jwt.WithAudience("k8sm")); err == nil {
			subject, _ := token.Claims.GetSubject()
			r.Header.Set("Authorization", "Bearer token-of-"+subject)
		}
		inner.ServeHTTP(w, r)
	})
	return a
}

func TestOpenIDConnectLogsIn(t *testing.T) {
	p := newProvider(t)
	b := open(t, knowing(t, p), p.config())
	state := p.begin(b)
	at, _ := url.Parse(b.server.URL())
	for name, want := range map[string]string{
		"client_id": "k8sm", "response_type": "code", "code_challenge_method": "S256", "scope": "openid email groups", "redirect_uri": "https://" + at.Host + "/auth/callback",
	} {
		if got := p.asked.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	response, said := b.get("/auth/callback?code=the-code&state=" + state)
	if response.StatusCode != http.StatusFound || response.Header.Get("Location") != "/" {
		t.Fatalf("%d to %s: %s", response.StatusCode, response.Header.Get("Location"), said)
	}
	code, said := b.do("GET", "/api/session", "")
	var s struct {
		User    string
		Expires time.Time
	}
	if err := json.Unmarshal([]byte(said), &s); code != http.StatusOK || err != nil || s.User != "ann" || time.Until(s.Expires) > time.Hour {
		t.Errorf("the session is %d %s", code, said)
	}
	b.http = b.anew()
	if _, said := b.get("/auth/methods"); !strings.Contains(said, `"oidc":true`) {
		t.Errorf("the methods are %s", said)
	}
}

func TestOpenIDConnectRefusesOtherLogIns(t *testing.T) {
	for name, attack := range map[string]func(p *provider, b *browser) (query, problem string){
		"a code of another browser": func(p *provider, b *browser) (string, string) {
			state := p.begin(b)
			b.http = b.anew() // whoever is sent such a link
			return "code=the-code&state=" + state, "old"
		},
		"a state that nobody has": func(_ *provider, b *browser) (string, string) {
			at, _ := url.Parse(b.server.URL())
			b.http.Jar.SetCookies(at, []*http.Cookie{{Name: b.server.issuer.cookieName(), Value: "made-up.n.v", Path: "/", Secure: true}})
			return "code=the-code&state=other", "old"
		},
		"no state": func(p *provider, b *browser) (string, string) { p.begin(b); return "code=the-code", "old" },
		"a code that the issuer does not know": func(p *provider, b *browser) (string, string) {
			return "code=other&state=" + p.begin(b), "unknown"
		},
		"a token of another log-in": func(p *provider, b *browser) (string, string) {
			p.nonce = "other"
			return "code=the-code&state=" + p.begin(b), "unknown"
		},
		"a token for another client": func(p *provider, b *browser) (string, string) {
			p.client = "other"
			return "code=the-code&state=" + p.begin(b), "unknown"
		},
		"no": func(p *provider, b *browser) (string, string) {
			return "error=access_denied&error_description=%3Cscript%3E&state=" + p.begin(b), "denied"
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProvider(t)
			b := open(t, knowing(t, p), p.config())
			query, problem := attack(p, b)
			for range 2 { // the browser's part is good for once
				if response, said := b.get("/auth/callback?" + query); response.Header.Get("Location") != "/?problem="+problem {
					t.Errorf("%d to %s: %s", response.StatusCode, response.Header.Get("Location"), said)
				}
				problem = "old"
			}
			if code, _ := b.do("GET", "/api/session", ""); code != http.StatusUnauthorized {
				t.Errorf("the session gets %d", code)
			}
		})
	}
}

func TestOpenIDConnectIssuerMayBeAway(t *testing.T) {
	p := newProvider(t)
	b := open(t, knowing(t, p), p.config())
	handler := p.Config.Handler
	p.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "away", http.StatusServiceUnavailable) })
	if response, _ := b.get("/auth/oidc"); response.Header.Get("Location") != "/?problem=issuer" {
		t.Errorf("it leads to %s", response.Header.Get("Location"))
	}
	p.Config.Handler = handler
	if p.begin(b) == "" {
		t.Error("it does not come back")
	}
}

func TestOpenIDConnectIsOffByDefault(t *testing.T) {
	b := open(t, newAPI(t, ok), Config{})
	for _, path := range []string{"/auth/oidc", "/auth/callback?code=a&state=b"} {
		if response, _ := b.get(path); response.Header.Get("Location") != "" || response.Header.Get("Set-Cookie") != "" {
			t.Errorf("%s answers %v", path, response.Header)
		}
	}
	response, err := b.http.Get(b.server.URL() + "auth/methods")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if said, _ := io.ReadAll(response.Body); !strings.Contains(string(said), `"oidc":false`) {
		t.Errorf("the methods are %s", said)
	}
}
