package api

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
)

// AuthorityID is a short name of a CA's certificate: the beginning of its SHA-256 in hexadecimal digits.
func AuthorityID(ca *x509.Certificate) string {
	sum := sha256.Sum256(ca.Raw)
	return hex.EncodeToString(sum[:8])
}

// Authorities are the CAs that a node knows, by AuthorityID.
type Authorities struct {
	// Trusts are those of the API's servers and clients that it trusts.
	Trusts []string `json:"trusts"`
	// Client and Serving are those that signed the certificates of its kubelet; empty while it has none.
	Client  string `json:"client,omitempty"`
	Serving string `json:"serving,omitempty"`
}
