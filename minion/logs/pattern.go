package logs

import (
	"fmt"
	"regexp"
)

// pattern is a pod's regular expression for lines that begin an entry.
type pattern struct {
	text  string
	start *regexp.Regexp // nil: each line is an entry
}

// maxPattern bounds the time that it takes to match one.
const maxPattern = 1 << 10

// set takes the text, "" for none. It returns an error if this is a new text, which cannot be used.
func (p *pattern) set(text string) error {
	if text == p.text {
		return nil
	}
	*p = pattern{text: text}
	if text == "" {
		return nil
	}
	if len(text) > maxPattern {
		return fmt.Errorf("it has %d characters, of which at most %d are allowed", len(text), maxPattern)
	}
	start, err := regexp.Compile(text)
	p.start = start
	return err
}
