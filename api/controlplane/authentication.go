package controlplane

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/apis/apiserver"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"k8s.io/apiserver/pkg/apis/apiserver/validation"
	authenticationcel "k8s.io/apiserver/pkg/authentication/cel"
)

// OIDC is an issuer of tokens, as kube-apiserver's flags describe one
// (https://kubernetes.io/docs/reference/access-authn-authz/authentication/#configuring-the-api-server).
type OIDC struct {
	IssuerURL, ClientID, CAFile, UsernameClaim, UsernamePrefix, GroupsClaim, GroupsPrefix string
	// RequiredClaims are NAME=VALUE.
	RequiredClaims map[string]string
}

func (o *OIDC) addFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.IssuerURL, "oidc-issuer-url", "", "`URL` (https) of an OpenID Connect issuer whose tokens the API server accepts; --authentication-config takes several")
	fs.StringVar(&o.ClientID, "oidc-client-id", "", "with --oidc-issuer-url: client `ID` that a token must be for")
	fs.StringVar(&o.CAFile, "oidc-ca-file", "", "with --oidc-issuer-url: CA of the issuer's certificate (default: the machine's CAs)")
	fs.StringVar(&o.UsernameClaim, "oidc-username-claim", "sub", "with --oidc-issuer-url: claim with the user's name")
	fs.StringVar(&o.UsernamePrefix, "oidc-username-prefix", "", "with --oidc-issuer-url: prefix of users' names; \"-\" means none (default: the issuer's URL and #, none for the claim email)")
	fs.StringVar(&o.GroupsClaim, "oidc-groups-claim", "", "with --oidc-issuer-url: claim with the user's groups")
	fs.StringVar(&o.GroupsPrefix, "oidc-groups-prefix", "", "with --oidc-issuer-url: prefix of groups' names")
	fs.StringToStringVar(&o.RequiredClaims, "oidc-required-claim", nil, "with --oidc-issuer-url: `CLAIM=VALUE` that a token must have; can be repeated")
}

// authenticator returns the issuer in the form of an AuthenticationConfiguration; nil without one.
func (o OIDC) authenticator() (*apiserverv1.JWTAuthenticator, error) {
	if o.IssuerURL == "" {
		if o.ClientID+o.CAFile+o.UsernamePrefix+o.GroupsClaim+o.GroupsPrefix != "" || len(o.RequiredClaims) > 0 {
			return nil, errors.New("cannot use --oidc-client-id and the other --oidc flags without --oidc-issuer-url")
		}
		return nil, nil
	}
	if o.ClientID == "" {
		return nil, errors.New("cannot use --oidc-issuer-url without --oidc-client-id")
	}
	prefix := o.UsernamePrefix
	switch {
	case prefix == "-":
		prefix = ""
	case prefix == "" && o.UsernameClaim != "email":
		prefix = o.IssuerURL + "#"
	}
	j := &apiserverv1.JWTAuthenticator{
		Issuer:        apiserverv1.Issuer{URL: o.IssuerURL, Audiences: []string{o.ClientID}},
		ClaimMappings: apiserverv1.ClaimMappings{Username: apiserverv1.PrefixedClaimOrExpression{Claim: o.UsernameClaim, Prefix: &prefix}},
	}
	if o.GroupsClaim != "" {
		j.ClaimMappings.Groups = apiserverv1.PrefixedClaimOrExpression{Claim: o.GroupsClaim, Prefix: &o.GroupsPrefix}
	}
	if o.CAFile != "" {
		ca, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("cannot use --oidc-ca-file: %w", err)
		}
		j.Issuer.CertificateAuthority = string(ca)
	}
	for claim, value := range o.RequiredClaims {
		j.ClaimValidationRules = append(j.ClaimValidationRules, apiserverv1.ClaimValidationRule{Claim: claim, RequiredValue: value})
	}
	return j, nil
}

// authentication returns the API server's AuthenticationConfiguration: unauthenticated callers get only its health
// (https://kubernetes.io/docs/reference/access-authn-authz/authentication/#anonymous-authenticator-configuration), and the operator's
// issuers of tokens are accepted.
func (c Config) authentication() ([]byte, error) {
	var given apiserverv1.AuthenticationConfiguration
	issuer, err := c.OIDC.authenticator()
	if err != nil {
		return nil, err
	}
	if c.AuthenticationConfig != "" {
		if issuer != nil {
			return nil, errors.New("cannot use --oidc-issuer-url with --authentication-config: add the issuer to the file")
		}
		if given, err = readAuthentication(c.AuthenticationConfig); err != nil {
			return nil, fmt.Errorf("cannot use --authentication-config=%s: %s", c.AuthenticationConfig, strings.Join(strings.Fields(err.Error()), " "))
		}
	}
	if issuer != nil {
		given.JWT = []apiserverv1.JWTAuthenticator{*issuer}
	}
	given.TypeMeta = metav1.TypeMeta{APIVersion: apiserverv1.SchemeGroupVersion.String(), Kind: "AuthenticationConfiguration"}
	given.Anonymous = &apiserverv1.AnonymousAuthConfig{
		Enabled:    true,
		Conditions: []apiserverv1.AnonymousAuthCondition{{Path: "/livez"}, {Path: "/readyz"}, {Path: "/healthz"}},
	}
	var internal apiserver.AuthenticationConfiguration
	if err := configScheme.Convert(&given, &internal, nil); err != nil {
		return nil, fmt.Errorf("cannot convert the authentication configuration: %w", err)
	}
	compiler := authenticationcel.NewDefaultCompiler()
	if err := validation.ValidateAuthenticationConfiguration(compiler, &internal, []string{c.serviceAccountIssuer()}).ToAggregate(); err != nil {
		flag := "--authentication-config"
		if issuer != nil {
			flag = "--oidc-issuer-url"
		}
		return nil, fmt.Errorf("cannot use %s: %w", flag, err)
	}
	return json.Marshal(given)
}

// readAuthentication reads the operator's file, of any version of the API.
func readAuthentication(file string) (config apiserverv1.AuthenticationConfiguration, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return config, err
	}
	codecs := serializer.NewCodecFactory(configScheme, serializer.EnableStrict)
	object, err := runtime.Decode(codecs.UniversalDecoder(), data)
	if err != nil {
		return config, err
	}
	given, ok := object.(*apiserver.AuthenticationConfiguration)
	if !ok {
		return config, fmt.Errorf("it is not an AuthenticationConfiguration but a %T", object)
	}
	if given.Anonymous != nil {
		return config, errors.New("remove anonymous: km lets unauthenticated callers get the server's health only")
	}
	return config, configScheme.Convert(given, &config, nil)
}

// authenticationPoll is how often km looks for a change of the operator's authentication configuration.
const authenticationPoll = 5 * time.Second

// watchAuthentication passes changes of the operator's file on, which the API server then notices. It blocks until ctx ends.
func (c Config) watchAuthentication(ctx context.Context, every time.Duration) {
	if c.AuthenticationConfig == "" {
		return
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	last, _ := os.ReadFile(c.AuthenticationConfig)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now, err := os.ReadFile(c.AuthenticationConfig)
		if err == nil && bytes.Equal(now, last) {
			continue
		}
		last = now
		config, err := c.authentication()
		if err == nil {
			err = c.StateDir.WriteAuthenticationConfig(config)
		}
		if err != nil {
			logrus.WithError(err).Error("cannot take over the changed authentication configuration: the former one stays in force")
			continue
		}
		logrus.Info("the authentication configuration has changed")
	}
}
