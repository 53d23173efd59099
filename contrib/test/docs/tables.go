package docs

import (
	"strings"
)

// Table is a table of a page. Cells have their Markdown, without the space around it.
type Table struct {
	Heading string // that the table stands under
	Line    int    // of its header, from 1
	Header  []string
	Rows    [][]string
}

// Tables returns the tables of a page that stand outside of code blocks.
func (p Page) Tables() []Table {
	var tables []Table
	heading, fenced, inside := "", false, false
	for i, line := range strings.Split(p.Text, "\n") {
		switch {
		case strings.HasPrefix(line, "```"):
			fenced, inside = !fenced, false
		case fenced:
		case strings.HasPrefix(line, "#"):
			heading, inside = strings.TrimSpace(strings.TrimLeft(line, "#")), false
		case !strings.HasPrefix(line, "|"):
			inside = false
		case !inside:
			tables, inside = append(tables, Table{Heading: heading, Line: i + 1, Header: cells(line)}), true
		case strings.Trim(line, "|-: ") != "": // else it is the line below the header
			last := &tables[len(tables)-1]
			last.Rows = append(last.Rows, cells(line))
		}
	}
	return tables
}

func cells(line string) []string {
	list := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
	for i := range list {
		list[i] = strings.TrimSpace(list[i])
	}
	return list
}
