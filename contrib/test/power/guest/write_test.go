package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestLinesThatWereCutOffDoNotCount(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lines")
	if err := os.WriteFile(path, []byte("1.\n2.\n2.\n1\n5.\nx.\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	present, err := numbersIn(path)
	if err != nil {
		t.Fatal(err)
	}
	if present[1] != 1 || present[2] != 2 || len(present) != 3 {
		t.Errorf("present are %v", present)
	}
	if got := absent(present, 6); !slices.Equal(got, []int{3, 4, 6}) {
		t.Errorf("absent are %v", got)
	}
}
