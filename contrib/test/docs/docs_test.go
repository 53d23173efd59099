package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	mesosapi "github.com/mesos/mesos-go/api/v1/lib"

	"github.com/k8sm/k8sm/scheduler"
	"github.com/k8sm/k8sm/scheduler/mesosmetrics"
)

const root = "../../.."

func pages(t *testing.T) []Page {
	t.Helper()
	list, err := Pages(root)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func page(t *testing.T, name string) Page {
	t.Helper()
	for _, p := range pages(t) {
		if p.Name == name {
			return p
		}
	}
	t.Fatalf("there is no %s", name)
	return Page{}
}

func TestEachCodeBlockIsMarked(t *testing.T) {
	run := 0
	for _, p := range pages(t) {
		blocks, err := p.Blocks()
		if err != nil {
			t.Error(err)
		}
		for _, b := range blocks {
			if b.Kind == Run {
				run++
			}
			if b.Kind == Console && len(b.Commands()) == 0 {
				t.Errorf("%s:%d: a console without a command: begin its commands with \"$ \"", b.Page, b.Line)
			}
		}
	}
	if run == 0 {
		t.Error("no block is run: this guards nothing")
	}
}

func TestLinksLeadSomewhere(t *testing.T) {
	list := map[string]Page{}
	for _, p := range pages(t) {
		list[p.Name] = p
	}
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	for name, p := range list {
		for _, found := range link.FindAllStringSubmatch(p.Text, -1) {
			target, anchor, _ := strings.Cut(found[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			to := name
			if target != "" {
				to = path.Join(path.Dir(name), target)
			}
			if _, err := os.Stat(filepath.Join(root, to)); err != nil {
				t.Errorf("%s: link %s: %v", name, found[1], err)
			} else if anchor != "" && !slices.Contains(list[to].Anchors(), anchor) {
				t.Errorf("%s: link %s: no such heading", name, found[1])
			}
		}
	}
}

func TestREADMEIsOnePage(t *testing.T) {
	if lines := strings.Count(page(t, "README.md").Text, "\n"); lines > 120 {
		t.Errorf("README.md has %d lines; move what is more than 120 to docs/", lines)
	}
}

func TestEachPageIsInTheIndex(t *testing.T) {
	index := page(t, "docs/README.md").Text
	for _, p := range pages(t) {
		if name, below := strings.CutPrefix(p.Name, "docs/"); below && name != "README.md" && !strings.Contains(index, "]("+name+")") {
			t.Errorf("docs/README.md does not link to %s", name)
		}
	}
}

// walkGo calls visit with each Go file of the product.
func walkGo(visit func(file string) error) error {
	return filepath.WalkDir(root, func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name := entry.Name(); entry.IsDir() && (name == "build" || name == "testdata" || name == "node_modules" || name == "test" || name == ".git") {
			return filepath.SkipDir
		}
		if filepath.Ext(file) != ".go" || strings.HasSuffix(file, "_test.go") {
			return nil
		}
		return visit(file)
	})
}

// named matches the constants that hold keys of annotations, labels and taints.
var named = regexp.MustCompile(`(?i)^(docker)?(annotation|label|taint)`)

// keys are the values of these constants in the product, by their names.
func keys(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := walkGo(func(file string) error {
		syntax, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(syntax, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok {
				return true
			}
			for i, value := range spec.Values {
				literal, ok := value.(*ast.BasicLit)
				if !ok || literal.Kind != token.STRING || !named.MatchString(spec.Names[i].Name) {
					continue
				}
				if key, err := strconv.Unquote(literal.Value); err == nil && strings.Contains(key, "k8sm") {
					found[key] = spec.Names[i].Name
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestReferenceListsAllAnnotationsLabelsAndTaints(t *testing.T) {
	written := map[string]bool{}
	for _, key := range regexp.MustCompile(`\b(k8sm\.io/|io\.k8sm\.)[a-z0-9-]+`).FindAllString(page(t, "docs/reference.md").Text, -1) {
		written[key] = true
	}
	there := keys(t)
	if len(there) < 20 {
		t.Errorf("found only %d constants: %v", len(there), there)
	}
	for key, constant := range there {
		if !written[key] {
			t.Errorf("docs/reference.md does not list %s (%s)", key, constant)
		}
	}
	for key := range written {
		if there[key] == "" {
			t.Errorf("docs/reference.md lists %s, which no constant holds", key)
		}
	}
}

func TestReferenceListsAllTaskStates(t *testing.T) {
	var known, rows []string
	for _, name := range mesosapi.TaskState_name {
		if _, ok := scheduler.ParseTaskState(name); ok {
			known = append(known, name)
		}
	}
	for _, row := range regexp.MustCompile("(?m)^\\| `(TASK_[A-Z_]+)` \\|").FindAllStringSubmatch(page(t, "docs/reference.md").Text, -1) {
		rows = append(rows, row[1])
	}
	slices.Sort(known)
	slices.Sort(rows)
	if diff := cmp.Diff(known, rows); diff != "" || len(known) != len(mesosapi.TaskState_name) {
		t.Errorf("Mesos has %d states; those of the scheduler are - and those in docs/reference.md +:\n%s", len(mesosapi.TaskState_name), diff)
	}
}

// TestReferenceListsAllMetricsOfMesos has several metrics in some rows.
func TestReferenceListsAllMetricsOfMesos(t *testing.T) {
	var known, written []string
	rows := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| (`mesos_.*)$").FindAllStringSubmatch(page(t, "docs/reference.md").Text, -1) {
		names, rest, _ := strings.Cut(row[1], " | ")
		kind, _, _ := strings.Cut(rest, " | ")
		for name := range strings.SplitSeq(names, ", ") {
			name = strings.Trim(name, "`")
			rows[name] = rest
			written = append(written, name+" "+kind)
		}
	}
	for _, f := range mesosmetrics.Families() {
		known = append(known, f.Name+" "+f.Kind.String())
		for _, label := range f.Labels {
			if !strings.Contains(rows[f.Name], "`"+label+"`") {
				t.Errorf("docs/reference.md does not say that %s has the label %s", f.Name, label)
			}
		}
	}
	slices.Sort(written)
	if diff := cmp.Diff(known, written); diff != "" {
		t.Errorf("the scheduler has -, docs/reference.md +:\n%s", diff)
	}
}

func TestFilesNamedInThePagesExist(t *testing.T) {
	named := regexp.MustCompile("`((?:api|contrib|executor|minion|offers|scheduler)/[a-z0-9_./-]+)`")
	checked := 0
	for _, p := range pages(t) {
		for _, found := range named.FindAllStringSubmatch(p.Text, -1) {
			checked++
			if _, err := os.Stat(filepath.Join(root, found[1])); err != nil {
				t.Errorf("%s: %v", p.Name, err)
			}
		}
	}
	if checked == 0 {
		t.Error("no page names a file: this guards nothing")
	}
}

// What a package's comment says of its files is read first, and was written when they had other names.
func TestFilesNamedInPackageCommentsExist(t *testing.T) {
	named := regexp.MustCompile(`\b[a-z0-9_]+\.go\b`)
	err := walkGo(func(file string) error {
		if filepath.Base(file) != "doc.go" {
			return nil
		}
		syntax, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments|parser.PackageClauseOnly)
		if err != nil || syntax.Doc == nil {
			return err
		}
		for _, name := range named.FindAllString(syntax.Doc.Text(), -1) {
			_, here := os.Stat(filepath.Join(filepath.Dir(file), name))
			_, top := os.Stat(filepath.Join(root, name))
			if here != nil && top != nil {
				t.Errorf("%s names %s, which is not there", file, name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestBlocksAreRead(t *testing.T) {
	p := Page{Name: "p.md", Text: "# A (b)\n\n```sh\na 'b c' | d # e\n```\n- item\n\n    still the item\n```console\n$ a --b=\"c\" && \\\nd\nout\n```\n"}
	blocks, err := p.Blocks()
	if err != nil {
		t.Fatal(err)
	}
	var got [][]string
	for _, b := range blocks {
		got = append(got, b.Commands()...)
	}
	want := [][]string{{"a", "b c"}, {"d"}, {"a", "--b=c"}, {"d"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"a-b"}, p.Anchors()); diff != "" {
		t.Error(diff)
	}
}

func TestBlocksThatSayNotWhatTheyAreAreRefused(t *testing.T) {
	for name, text := range map[string]string{
		"no mark": "```\nx\n```\n", "another mark": "```bash\nx\n```\n", "indentation": "Text:\n\n    x\n", "no end": "```sh\nx\n",
	} {
		if blocks, err := (Page{Name: "p.md", Text: text}).Blocks(); err == nil {
			t.Errorf("%s: read as %v", name, blocks)
		}
	}
}

func TestAllKindsAreExplained(t *testing.T) {
	text := page(t, "docs/development.md").Text
	for _, kind := range kinds {
		if !strings.Contains(text, "`"+kind+"`") {
			t.Errorf("docs/development.md does not say what %s blocks are", kind)
		}
	}
}
