package notes

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestNotesAreRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notes")
	if n, err := Read(path); err != nil || n.Back != 0 {
		t.Fatalf("a file that is not there: %v, %v", n, err)
	}
	first, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	second, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		first.Acknowledge(Objects, 7), second.Acknowledge(Volume, 3), first.Acknowledge(Objects, 8), second.Skip(4), first.Back(2),
		first.Problem("no object %d", 5), second.Acknowledge(Logs, 2),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteString("objects 9"); err != nil { // of 90, say
		t.Fatal(err)
	}
	n, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if n.Acknowledged[Objects] != 8 || n.Acknowledged[Volume] != 3 || n.Acknowledged[Logs] != 2 || n.Back != 2 || !n.Skipped[4] || !slices.Equal(n.Problems, []string{"no object 5"}) {
		t.Errorf("read %+v", n)
	}
}

func TestAllKindsMustGoFurther(t *testing.T) {
	before := Notes{Acknowledged: map[Kind]int{Objects: 1, Volume: 2, Logs: 3}}
	after := Notes{Acknowledged: map[Kind]int{Objects: 2, Volume: 3, Logs: 3}}
	if after.Further(before) {
		t.Error("the log store took nothing")
	}
	after.Acknowledged[Logs] = 4
	if !after.Further(before) {
		t.Error("all went on")
	}
}
