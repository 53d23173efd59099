package statedir

import (
	"crypto/x509"
	"fmt"
	"time"

	"github.com/spf13/pflag"
)

// Lives are how long new certificates are valid. AddFlags sets the defaults; the zero value means them, too.
type Lives struct {
	// Leaf is for all certificates but those of CAs, Authority for those.
	Leaf, Authority time.Duration
}

const (
	defaultLeafLife      = 365 * 24 * time.Hour
	defaultAuthorityLife = 10 * 365 * 24 * time.Hour
	// shortestLife leaves programs that look for new files once in a while the time to do so.
	shortestLife = 30 * time.Second
	longestLife  = 30 * 365 * 24 * time.Hour
)

// AddFlags adds the flags, and sets the defaults.
func (l *Lives) AddFlags(fs *pflag.FlagSet) {
	fs.DurationVar(&l.Leaf, "cert-lifetime", defaultLeafLife, "how long new certificates are valid, also those of kubelets. They are renewed after two thirds of it. Existing ones that last longer are replaced")
	l.AddAuthorityFlag(fs)
}

// AddAuthorityFlag adds the flag of CAs only.
func (l *Lives) AddAuthorityFlag(fs *pflag.FlagSet) {
	fs.DurationVar(&l.Authority, "ca-lifetime", defaultAuthorityLife, "how long the certificates of new CAs are valid; it changes nothing for CAs that exist")
}

// Validate returns an error if the lives are out of bounds.
func (l Lives) Validate() error {
	if l.leaf() < shortestLife {
		return fmt.Errorf("cannot use --cert-lifetime=%s: give %s or more", l.Leaf, shortestLife)
	}
	if l.leaf() > l.authority() {
		return fmt.Errorf("cannot use --cert-lifetime=%s: no certificate lasts longer than its CA, which has --ca-lifetime=%s", l.leaf(), l.authority())
	}
	if l.authority() > longestLife {
		return fmt.Errorf("cannot use --ca-lifetime=%s: give %s or less, which is 30 years", l.Authority, longestLife)
	}
	return nil
}

func (l Lives) leaf() time.Duration {
	if l.Leaf == 0 {
		return defaultLeafLife
	}
	return l.Leaf
}

func (l Lives) authority() time.Duration {
	if l.Authority == 0 {
		return defaultAuthorityLife
	}
	return l.Authority
}

// skew is how long before it was made a certificate of this life is valid already, for machines whose clocks are behind.
func skew(life time.Duration) time.Duration { return min(clockSkew, life/24) }

// RenewedAt is when a certificate of the state directory is due to be issued again: after two thirds of its life.
func RenewedAt(cert *x509.Certificate) time.Time {
	return cert.NotAfter.Add(-cert.NotAfter.Sub(cert.NotBefore) / 3)
}

// Signed is how long the certificates are valid that nodes request.
func (l Lives) Signed() time.Duration { return l.leaf() }
