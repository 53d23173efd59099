package history

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/sirupsen/logrus"
	"go.yaml.in/yaml/v3"

	"github.com/k8sm/k8sm/contrib/metrics/seldom"
)

const (
	// builtIn is before the names of the default rule files.
	builtIn = "built-in/"
	// maxRuleFiles bounds how many files a directory may have.
	maxRuleFiles = 1000
	// maxErrors bounds how many errors of a file are logged.
	maxErrors = 10
)

// ruleFiles are the rules that are in force. A file that does not parse changes nothing: the rules that it had before stay. One goroutine
// may use it, and Prometheus' rule manager while that goroutine updates it.
type ruleFiles struct {
	dirs   map[string]fs.FS // by what is before their files' names
	parser parser.Parser
	log    *logrus.Entry
	seen   seldom.Seen
	files  map[string]*ruleFile // by name
}

// ruleFile is a file of rules.
type ruleFile struct {
	content []byte              // as last read
	groups  *rulefmt.RuleGroups // those that parsed last; nil if none has
}

// newRuleFiles returns the rules of a configuration, not read yet.
func newRuleFiles(cfg Config) *ruleFiles {
	r := &ruleFiles{
		dirs: map[string]fs.FS{}, parser: parser.NewParser(parser.Options{}), log: cfg.Log, files: map[string]*ruleFile{},
	}
	if cfg.DefaultRules != nil {
		r.dirs[builtIn] = cfg.DefaultRules
	}
	if cfg.RulesDir != "" {
		r.dirs[filepath.Clean(cfg.RulesDir)+string(filepath.Separator)] = os.DirFS(cfg.RulesDir)
	}
	return r
}

// read reads what has changed. It reports whether other rules are in force now.
func (r *ruleFiles) read() bool {
	changed, there := false, map[string]bool{}
	for prefix, dir := range r.dirs {
		names, err := ruleNames(dir)
		if err != nil {
			r.complain(fmt.Errorf("%s: %w", prefix, err))
			for name := range r.files {
				there[name] = there[name] || strings.HasPrefix(name, prefix)
			}
		}
		for _, name := range names {
			there[prefix+name] = true
			changed = r.take(prefix+name, dir, name) || changed
		}
	}
	maps.DeleteFunc(r.files, func(name string, file *ruleFile) bool {
		changed = changed || !there[name] && file.groups != nil
		return !there[name]
	})
	return changed
}

// ruleNames are the names of the rule files in a directory.
func ruleNames(dir fs.FS) ([]string, error) {
	entries, err := fs.ReadDir(dir, ".")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		if ext := path.Ext(entry.Name()); ext == ".yaml" || ext == ".yml" {
			names = append(names, entry.Name())
		}
	}
	if len(names) > maxRuleFiles {
		return nil, fmt.Errorf("there are %d files of rules, more than %d", len(names), maxRuleFiles)
	}
	return names, nil
}

// take reads and parses a file if it has changed. It reports whether other rules are in force now.
func (r *ruleFiles) take(name string, dir fs.FS, base string) bool {
	content, err := readNamed(dir, base)
	if err != nil {
		r.complain(place(name, 0, err))
		return false
	}
	file := r.files[name]
	if file == nil {
		file = &ruleFile{}
		r.files[name] = file
	} else if bytes.Equal(file.content, content) {
		return false
	}
	file.content = content
	groups, errs := rulefmt.Parse(content, false, model.UTF8Validation, r.parser, slog.New(slog.DiscardHandler))
	if len(errs) == 0 && !single(content) {
		errs = []error{errors.New("the file has more than one document")}
	}
	if len(errs) == 0 {
		file.groups = groups
		return true
	}
	r.complain(placeAll(name, content, errs))
	return false
}

// single reports whether a text has one document: Prometheus would ignore the others.
func single(content []byte) bool {
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	var document yaml.Node
	_ = decoder.Decode(&document)
	return decoder.Decode(&document) == io.EOF
}

// placeAll says where the errors in a file of rules are. Some are there twice.
func placeAll(name string, content []byte, errs []error) error {
	var document struct {
		Groups []yaml.Node `yaml:"groups"`
	}
	_ = yaml.Unmarshal(content, &document) // if it is wrong, the errors have their lines
	var all []error
	for _, err := range errs {
		placed := place(name, ruleLine(document.Groups, err), err)
		if len(all) < maxErrors && !slices.ContainsFunc(all, func(other error) bool { return other.Error() == placed.Error() }) {
			all = append(all, placed)
		}
	}
	return errors.Join(all...)
}

// ruleLine is the line of the rule that an error is about, or of the first group whose name cannot be, or 0.
func ruleLine(groups []yaml.Node, err error) int {
	var wrong *rulefmt.Error
	ofRule, names := errors.As(err, &wrong), map[string]bool{"": true}
	for _, group := range groups {
		var known struct {
			Name  string      `yaml:"name"`
			Rules []yaml.Node `yaml:"rules"`
		}
		switch _ = group.Decode(&known); {
		case ofRule && known.Name == wrong.Group && wrong.Rule <= len(known.Rules):
			return known.Rules[wrong.Rule-1].Line
		case !ofRule && names[known.Name]:
			return group.Line
		}
		names[known.Name] = true
	}
	return 0
}

// readNamed reads a file of a directory.
func readNamed(dir fs.FS, name string) ([]byte, error) {
	file, err := dir.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return readFile(file)
}

// complain logs what is wrong with a file, once in a while.
func (r *ruleFiles) complain(err error) {
	if r.seen.Fresh(err.Error()) {
		r.log.WithError(err).Warn("cannot use a file of rules: the rules that it had before stay, and the other files are used")
	}
}

// names are the files that have rules.
func (r *ruleFiles) names() (names []string) {
	for name, file := range r.files {
		if file.groups != nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Load implements rules.GroupLoader.
func (r *ruleFiles) Load(name string, _ bool, _ model.ValidationScheme) (*rulefmt.RuleGroups, []error) {
	if file := r.files[name]; file != nil && file.groups != nil {
		return file.groups, nil
	}
	return nil, []error{fmt.Errorf("there is no file %s", name)}
}

// Parse implements rules.GroupLoader.
func (r *ruleFiles) Parse(query string) (parser.Expr, error) { return r.parser.ParseExpr(query) }
