package scheduler

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
)

// maxFields is how many fields a struct may have, so that a reader can keep it in mind.
const maxFields = 15

// TestSubjectsKeepToThemselves: subjects of the core call each other's methods and never touch each other's fields. So a change of
// a subject's state concerns one file.
func TestSubjectsKeepToThemselves(t *testing.T) {
	files, set := parse(t, ".")
	structs := structsIn(files)
	fields := map[string]map[string]bool{} // of each subject, by its field of Core
	for _, field := range structs["Core"].Fields.List {
		subject, ok := field.Type.(*ast.Ident)
		if !ok || structs[subject.Name] == nil || !knowsCore(structs[subject.Name]) {
			continue
		}
		name := field.Names[0].Name
		fields[name] = map[string]bool{}
		for _, f := range structs[subject.Name].Fields.List {
			for _, id := range f.Names {
				fields[name][id.Name] = true
			}
		}
	}
	if len(fields) < 10 {
		t.Errorf("only %d subjects were found: the test tests nothing", len(fields))
	}
	for _, file := range files {
		ast.Inspect(file, func(n ast.Node) bool {
			outer, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if inner, ok := outer.X.(*ast.SelectorExpr); ok && fields[inner.Sel.Name][outer.Sel.Name] {
				t.Errorf("%s: %s.%s is used outside its subject: add a method", set.Position(outer.Pos()), inner.Sel.Name, outer.Sel.Name)
			}
			return true
		})
	}
}

// knowsCore reports whether the struct is a subject: its first field is core.
func knowsCore(s *ast.StructType) bool {
	return len(s.Fields.List) > 0 && len(s.Fields.List[0].Names) == 1 && s.Fields.List[0].Names[0].Name == "core"
}

// TestNoStructIsTooLargeToKeepInMind, here and in package match.
func TestNoStructIsTooLargeToKeepInMind(t *testing.T) {
	for _, dir := range []string{".", "match"} {
		files, _ := parse(t, dir)
		for name, s := range structsIn(files) {
			count := 0
			for _, f := range s.Fields.List {
				count += max(1, len(f.Names))
			}
			if count > maxFields {
				t.Errorf("%s: struct %s has %d fields, more than %d", dir, name, count, maxFields)
			}
		}
	}
}

func parse(t *testing.T, dir string) (map[string]*ast.File, *token.FileSet) {
	t.Helper()
	set := token.NewFileSet()
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]*ast.File{}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		if files[name], err = parser.ParseFile(set, name, nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	return files, set
}

func structsIn(files map[string]*ast.File) map[string]*ast.StructType {
	structs := map[string]*ast.StructType{}
	for _, file := range files {
		ast.Inspect(file, func(n ast.Node) bool {
			if spec, ok := n.(*ast.TypeSpec); ok {
				if s, ok := spec.Type.(*ast.StructType); ok {
					structs[spec.Name.Name] = s
				}
			}
			return true
		})
	}
	return structs
}
