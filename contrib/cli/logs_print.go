package cli

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/k8sm/k8sm/contrib/logs/read"
)

// printer prints lines.
type printer struct {
	out   *bufio.Writer
	errs  io.Writer
	flags *logsFlags
	// names says that the lines are of several containers, so that each needs its name.
	names bool
	// within is the container of the last part of a line that goes on.
	within string
}

// print prints a line. With -f, it is written at once.
func (p *printer) print(l read.Line) error {
	if p.flags.follow {
		defer p.out.Flush()
	}
	if p.flags.output == "json" {
		encoder := json.NewEncoder(p.out)
		encoder.SetEscapeHTML(false)
		return encoder.Encode(l)
	}
	name := p.nameOf(l)
	if l.Lost != "" {
		_, err := fmt.Fprintf(p.errs, "km: here are %s lines of %s missing: %s\n", lostLines(l), strings.Trim(name, "[]"), l.Lost)
		return err
	}
	if p.flags.output == "text" {
		if p.within != "" && p.within != name { // another container writes while a long line goes on
			_ = p.out.WriteByte('\n') // it keeps its first error, which the last write returns
			p.within = ""
		}
		if p.within == "" {
			p.prefix(l, name)
		}
	}
	_, _ = p.out.WriteString(l.Message)
	_, _ = p.out.Write(l.Raw)
	p.within = ""
	if l.More {
		p.within = name
		return nil
	}
	return p.out.WriteByte('\n')
}

func lostLines(l read.Line) string {
	if l.LostLines == 0 {
		return "some"
	}
	return fmt.Sprint(l.LostLines)
}

// nameOf names the container or component of a line, as kubectl does.
func (p *printer) nameOf(l read.Line) string {
	if l.Component != "" {
		return "[" + l.Node + "/" + l.Component + "]"
	}
	name := "pod/" + l.Pod + "/" + l.Container
	if p.flags.all {
		name = l.Namespace + "/" + name
	}
	return "[" + name + "]"
}

func (p *printer) prefix(l read.Line, name string) {
	if p.names {
		_, _ = p.out.WriteString(name + " ")
	}
	if p.flags.stamps {
		_, _ = p.out.WriteString(l.Time.UTC().Format(time.RFC3339Nano) + " ")
	}
}
