package localmesos

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/golang-jwt/jwt/v5"
	"github.com/mesos/mesos-go/api/v1/lib/executor"
	"github.com/spf13/pflag"
)

// Authentication says which callers must authenticate. The fields are named after Mesos' flags
// (https://mesos.apache.org/documentation/latest/authentication/). The agents' flags are the same as the master's.
type Authentication struct {
	// HTTPFrameworks requires schedulers to authenticate as a principal in Credentials.
	HTTPFrameworks bool
	// HTTPReadonly and HTTPReadwrite require it at the endpoints that only read, and at the others.
	HTTPReadonly, HTTPReadwrite bool
	// HTTPExecutors requires executors to send the token that their agent gave them in MESOS_EXECUTOR_AUTHENTICATION_TOKEN.
	HTTPExecutors bool
	// Credentials is the file of principals and secrets. If it is empty, there is one: see Cluster.Credential.
	Credentials string
	// JWTSecretKey is the file with the key that signs the executors' tokens. If it is empty, HTTPExecutors makes one in WorkDir.
	JWTSecretKey string
}

func (a *Authentication) addFlags(flags *pflag.FlagSet) {
	flags.BoolVar(&a.HTTPFrameworks, "authenticate-http-frameworks", true, "let only principals in --credentials subscribe as schedulers (HTTP basic)")
	flags.BoolVar(&a.HTTPReadonly, "authenticate-http-readonly", true, "let only principals in --credentials read at the master and the agents, except /health and /version")
	flags.BoolVar(&a.HTTPReadwrite, "authenticate-http-readwrite", true, "let only principals in --credentials use the operator API and other endpoints that change something")
	flags.BoolVar(&a.HTTPExecutors, "authenticate-http-executors", true, "let only executors call agents that send the token which their agent gave them (MESOS_EXECUTOR_AUTHENTICATION_TOKEN)")
	flags.StringVar(&a.Credentials, "credentials", "", "`file` of principals and secrets in Mesos' format: JSON, or lines of 'principal secret' "+
		"(default: the principal "+ownPrincipal+" with the secret in the file "+secretName+" of --work-dir, which is made at the first start)")
	flags.StringVar(&a.JWTSecretKey, "jwt-secret-key", "", "`file` with the key that signs the executors' tokens (default: the file "+keyName+" of --work-dir, which is made at the first start)")
}

const (
	// ownPrincipal is the only principal without Credentials.
	ownPrincipal = "k8sm"
	secretName   = "secret"
	keyName      = "jwt_secret_key"
)

// realm is what a caller authenticates for (src/master/constants.hpp and src/slave/constants.hpp in Mesos).
type realm string

const (
	schedulerRealm  realm = "mesos-master-scheduler"
	masterReadonly  realm = "mesos-master-readonly"
	masterReadwrite realm = "mesos-master-readwrite"
	agentReadonly   realm = "mesos-agent-readonly"
	agentReadwrite  realm = "mesos-agent-readwrite"
	executorRealm   realm = "mesos-agent-executor"
)

// authenticator authenticates the callers of master and agents.
type authenticator struct {
	Authentication
	known credentials
	key   []byte // signs tokens; nil without tokens
}

// read reads the files that are given.
func (a Authentication) read() (authenticator, error) {
	out := authenticator{Authentication: a}
	if a.Credentials != "" {
		known, err := readCredentials(a.Credentials)
		if err != nil {
			return out, fmt.Errorf("cannot read --credentials: %w", err)
		}
		out.known = known
	}
	if a.JWTSecretKey != "" {
		key, err := readSecret(a.JWTSecretKey)
		if err != nil {
			return out, fmt.Errorf("cannot read --jwt-secret-key: %w", err)
		}
		out.key = key
	}
	return out, nil
}

// complete makes the secrets that are needed and not given, or reads those that an earlier start made.
func (a *authenticator) complete(workDir string) error {
	if a.usesOwn() {
		secret, err := keepSecret(filepath.Join(workDir, secretName))
		if err != nil {
			return err
		}
		a.known = credentials{ownPrincipal: string(secret)}
	}
	if a.HTTPExecutors && a.JWTSecretKey == "" {
		key, err := keepSecret(filepath.Join(workDir, keyName))
		if err != nil {
			return err
		}
		a.key = key
	}
	return nil
}

// usesOwn reports whether the only principal is our own.
func (a Authentication) usesOwn() bool {
	return a.Credentials == "" && (a.HTTPFrameworks || a.HTTPReadonly || a.HTTPReadwrite)
}

// Credential returns the principal and the file with its secret, which only this program's user can read, if the local Mesos made
// them. Both are empty with Config.Authentication.Credentials, and if nobody needs to authenticate by HTTP basic.
func (c *Cluster) Credential() (principal, secretFile string) {
	if !c.plan.Authentication.usesOwn() {
		return "", ""
	}
	return ownPrincipal, filepath.Join(c.plan.WorkDir, secretName)
}

// keepSecret returns the secret in a file, and makes both if the file is missing.
func keepSecret(path string) ([]byte, error) {
	secret, err := readSecret(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return secret, err
	}
	secret = []byte(rand.Text())
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+"-*") // only its owner can read it
	if err != nil {
		return nil, fmt.Errorf("cannot keep a secret: %w", err)
	}
	_, err = f.Write(append(secret, '\n'))
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot keep a secret: %w", errors.Join(err, os.Remove(f.Name())))
	}
	return secret, nil
}

// readSecret reads a file with one secret. Like Mesos, it warns of a file that others can use.
func readSecret(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(path); err == nil && info.Mode()&0o007 != 0 {
		log.Warnf("permissions on %s are too open: other users should not have access to it", path)
	}
	secret := strings.TrimSpace(string(data))
	if secret == "" {
		return nil, fmt.Errorf("%s is empty: it must have a secret", path)
	}
	return []byte(secret), nil
}

// credentials maps principals to secrets.
type credentials map[string]string

// readCredentials reads a file in either format of Mesos
// (https://mesos.apache.org/documentation/latest/authentication/#credentials-file): JSON, or lines of "principal secret".
func readCredentials(path string) (credentials, error) {
	data, err := readSecret(path)
	if err != nil {
		return nil, err
	}
	var document struct {
		Credentials []struct{ Principal, Secret string }
	}
	if json.Unmarshal(data, &document) != nil {
		for line := range strings.Lines(string(data)) {
			if fields := strings.Fields(line); len(fields) == 2 {
				document.Credentials = append(document.Credentials, struct{ Principal, Secret string }{fields[0], fields[1]})
			}
		}
	}
	known := credentials{}
	for _, c := range document.Credentials {
		if c.Principal == "" || c.Secret == "" {
			return nil, errors.New("a credential has no principal or no secret")
		}
		known[c.Principal] = c.Secret
	}
	if len(known) == 0 {
		return nil, errors.New(`the file has no credentials; write {"credentials": [{"principal": "NAME", "secret": "SECRET"}]} or lines of "NAME SECRET"`)
	}
	return known, nil
}

// identity is who sent a request. The zero value is anyone: nobody had to authenticate.
type identity struct {
	principal string       // by HTTP basic
	token     *tokenClaims // by an executor's token
}

func (i identity) String() string {
	if i.token == nil {
		return i.principal
	}
	text, _ := json.Marshal(i.token) // it was decoded from JSON
	return string(text)
}

// tokenClaims says which executor a token is for, as JWTSecretGenerator in src/authentication/executor/jwt_secret_generator.cpp.
type tokenClaims struct {
	Framework string `json:"fid"`
	Executor  string `json:"eid"`
	Container string `json:"cid"`
	jwt.RegisteredClaims
}

// token returns an executor's token; "" without a key, and for a command, which is no executor.
func (a authenticator) token(run *executorRun) (string, error) {
	if a.key == nil || run.command {
		return "", nil
	}
	claims := tokenClaims{Framework: string(run.key.framework), Executor: string(run.key.executor), Container: run.container}
	return jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString(a.key)
}

// claimsProblem returns why the caller may not act as the executor's run, or "" (verifyExecutorClaims in src/slave/http.cpp).
func (i identity) claimsProblem(call *executor.Call, run *executorRun) string {
	if i == (identity{}) {
		return ""
	}
	var has tokenClaims
	if i.token != nil {
		has = *i.token
	}
	const lacks = "Authenticated principal '%s' does not contain "
	switch {
	case has.Framework != call.FrameworkID.Value:
		return fmt.Sprintf(lacks+"an 'fid' claim with the framework ID %s, which is set in the call", i, call.FrameworkID.Value)
	case has.Executor != call.ExecutorID.Value:
		return fmt.Sprintf(lacks+"an 'eid' claim with the executor ID %s, which is set in the call", i, call.ExecutorID.Value)
	case has.Container != run.container:
		return fmt.Sprintf(lacks+"a 'cid' claim with the correct active ContainerID", i)
	}
	return ""
}

type identityKey struct{}

// identityOf returns who sent a request that guard has let through.
func identityOf(r *http.Request) identity {
	i, _ := r.Context().Value(identityKey{}).(identity)
	return i
}

// required reports whether callers authenticate for a realm, and whether a token does too: with HTTPExecutors, agents take both in
// all their realms (Slave::initialize in src/slave/slave.cpp).
func (a authenticator) required(r realm) (authenticate, token bool) {
	switch r {
	case schedulerRealm:
		return a.HTTPFrameworks, false
	case masterReadonly:
		return a.HTTPReadonly, false
	case masterReadwrite:
		return a.HTTPReadwrite, false
	case agentReadonly:
		return a.HTTPReadonly, a.HTTPExecutors
	case agentReadwrite:
		return a.HTTPReadwrite, a.HTTPExecutors
	default:
		return a.HTTPExecutors, true
	}
}

// guard lets only those through who authenticate for the realm
// (https://mesos.apache.org/documentation/latest/authentication/#http-authentication).
func (a authenticator) guard(r realm, next http.Handler) http.Handler {
	authenticate, tokens := a.required(r)
	if !authenticate {
		return next
	}
	challenge, body := fmt.Sprintf("Basic realm=%q", r), "401 Unauthorized."
	if tokens { // CombinedAuthenticator in src/authentication/http/combined_authenticator.cpp
		challenge += fmt.Sprintf(",Bearer realm=%q", r)
		body = "\"Basic\" authenticator returned:\n" + body + "\n\n\"Bearer\" authenticator returned:\n" + body
	}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		who, ok := a.basic(req)
		if !ok && tokens {
			who, ok = a.bearer(req)
		}
		if !ok {
			w.Header().Set("WWW-Authenticate", challenge)
			http.Error(w, body, http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, req.WithContext(context.WithValue(req.Context(), identityKey{}, who)))
	})
}

// basic authenticates by HTTP basic.
func (a authenticator) basic(r *http.Request) (identity, bool) {
	name, secret, _ := r.BasicAuth()
	want, known := a.known[name]
	return identity{principal: name}, known && subtle.ConstantTimeCompare([]byte(secret), []byte(want)) == 1
}

// bearer authenticates by an executor's token (3rdparty/libprocess/src/jwt_authenticator.cpp).
func (a authenticator) bearer(r *http.Request) (identity, bool) {
	text, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return identity{}, false
	}
	var claims tokenClaims
	_, err := jwt.ParseWithClaims(text, &claims, func(*jwt.Token) (any, error) { return a.key, nil },
		jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}))
	return identity{token: &claims}, err == nil
}
