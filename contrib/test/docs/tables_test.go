package docs

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTablesAreRead(t *testing.T) {
	p := Page{Name: "p.md", Text: "# A\n\n| x | `y` |\n|---|:-:|\n| 1 | two words |\n|  | 4 |\n\n```text\n| no | table |\n```\n## B\n| z |\n|---|\n"}
	want := []Table{
		{Heading: "A", Line: 3, Header: []string{"x", "`y`"}, Rows: [][]string{{"1", "two words"}, {"", "4"}}},
		{Heading: "B", Line: 12, Header: []string{"z"}},
	}
	if diff := cmp.Diff(want, p.Tables()); diff != "" {
		t.Error(diff)
	}
}
