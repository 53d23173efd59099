package controlplane

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/k8sm/k8sm/api"
)

// readRegistryCAs reads the certificates of --registry-ca, given as HOST=FILE.
func readRegistryCAs(given []string, now time.Time) (map[string][]byte, error) {
	var all map[string][]byte
	for _, one := range given {
		refuse := func(err error) error { return fmt.Errorf("cannot use --registry-ca=%s: %w", one, err) }
		host, file, ok := strings.Cut(one, "=")
		if !ok || host == "" || file == "" {
			return nil, refuse(errors.New("give HOST=FILE or HOST:PORT=FILE"))
		}
		if err := api.CheckRegistry(host); err != nil {
			return nil, refuse(err)
		}
		if host == "docker.io" {
			return nil, refuse(errors.New("docker.io is Docker Hub, for which Docker Engine takes no other certificates; give the host of its mirror"))
		}
		if all[host] != nil {
			return nil, refuse(fmt.Errorf("%s is given twice: put the certificates in one file", host))
		}
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, refuse(err)
		}
		valid, err := validCertificates(data, now)
		if err != nil {
			return nil, refuse(err)
		}
		if all == nil {
			all = map[string][]byte{}
		}
		all[host] = valid
	}
	return all, nil
}

// validCertificates returns the certificates in PEM that have not ended, and nothing else of it: nodes can read them.
func validCertificates(data []byte, now time.Time) ([]byte, error) {
	var valid bytes.Buffer
	var ended *x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if strings.Contains(block.Type, "PRIVATE KEY") {
			return nil, errors.New("it has a private key: give the certificate of the authority alone")
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		if now.After(certificate.NotAfter) {
			ended = certificate
			continue
		}
		if err := pem.Encode(&valid, &pem.Block{Type: block.Type, Bytes: block.Bytes}); err != nil {
			return nil, err
		}
	}
	switch {
	case valid.Len() > 0:
		return valid.Bytes(), nil
	case ended != nil:
		return nil, fmt.Errorf("the certificate of %q has expired on %s", ended.Subject, ended.NotAfter.UTC().Format(time.DateOnly))
	}
	return nil, errors.New("it has no certificate in PEM, which begins with -----BEGIN CERTIFICATE-----")
}

// parseImageRewrites parses --image-rewrite, given as REGISTRY=TARGET. MinionConfig.Validate checks the names.
func parseImageRewrites(given []string) (map[string]string, error) {
	var rewrites map[string]string
	for _, one := range given {
		from, to, ok := strings.Cut(one, "=")
		if !ok || from == "" || to == "" {
			return nil, fmt.Errorf("cannot use --image-rewrite=%s: give REGISTRY=TARGET, such as docker.io=harbor.example/hub", one)
		}
		if rewrites[from] != "" {
			return nil, fmt.Errorf("cannot use --image-rewrite=%s: %s has another target already, %s", one, from, rewrites[from])
		}
		if rewrites == nil {
			rewrites = map[string]string{}
		}
		rewrites[from] = to
	}
	return rewrites, nil
}
