// Package flagvalue has values of flags that several commands take. They implement pflag.Value.
package flagvalue

import (
	"errors"
	"time"

	"github.com/alecthomas/units"
	"github.com/prometheus/common/model"
)

// Retention is how long something is kept: a duration with days, as Prometheus writes it
// (https://prometheus.io/docs/prometheus/latest/configuration/configuration/#configuration-file).
type Retention time.Duration

// String implements pflag.Value.
func (r *Retention) String() string { return model.Duration(*r).String() }

// Type implements pflag.Value.
func (*Retention) Type() string { return "long" }

// Set implements pflag.Value.
func (r *Retention) Set(text string) error {
	d, err := model.ParseDuration(text)
	if err != nil {
		return errors.New("give a time such as 36h, 7d or 1y")
	}
	*r = Retention(d)
	return nil
}

// Size is a number of bytes with a binary unit.
type Size int64

// String implements pflag.Value.
func (s *Size) String() string { return units.Base2Bytes(*s).String() }

// Type implements pflag.Value.
func (*Size) Type() string { return "size" }

// Set implements pflag.Value.
func (s *Size) Set(text string) error {
	bytes, err := units.ParseBase2Bytes(text)
	if err != nil && text != "0" {
		return errors.New("give a size such as 512MiB or 10GiB")
	}
	*s = Size(bytes)
	return nil
}
