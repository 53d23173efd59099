package history

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	prom "github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/discovery"
	yaml2 "go.yaml.in/yaml/v2"
	"go.yaml.in/yaml/v3"
)

// maxFile bounds a file that we read, in bytes.
const maxFile = 4 << 20

// lineIn finds the line in an error of a YAML library, or of Prometheus' rules.
var lineIn = regexp.MustCompile(`^(?:yaml: )?(?:unmarshal errors:\s*)?(?:line (\d+): |(\d+):\d+: (?:\d+:\d+: )?)`)

// place says where an error is, as FILE:LINE: ERROR. The line is the one in the error, or the given one, or is left out.
func place(file string, line int, err error) error {
	text := err.Error()
	if found := lineIn.FindStringSubmatch(text); found != nil {
		text = strings.Join(strings.Fields(text[len(found[0]):]), " ")
		if told, _ := strconv.Atoi(found[1] + found[2]); told > 0 {
			line = told
		}
	}
	text = short(text)
	if line > 0 {
		file = fmt.Sprintf("%s:%d", file, line)
	}
	return &placed{file + ": " + text, err}
}

// placed is an error whose text tells where it is.
type placed struct {
	text string
	err  error
}

// Error implements error.
func (p *placed) Error() string { return p.text }

// Unwrap lets callers find the error itself.
func (p *placed) Unwrap() error { return p.err }

// readFile reads a file that is not too large.
func readFile(file io.Reader) ([]byte, error) {
	content, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(content) > maxFile {
		return nil, fmt.Errorf("the file is larger than %d MiB", maxFile>>20)
	}
	return content, nil
}

// addFile adds the jobs of a file of scrape configurations. Errors name file and line.
func addFile(built *prom.Config, sources map[string]discovery.Configs, name string) error {
	file, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("cannot read scrape configurations: %w", err)
	}
	defer file.Close()
	content, err := readFile(file)
	if err != nil {
		return fmt.Errorf("cannot read scrape configurations: %s: %w", name, err)
	}
	items := scrapeItems(content)
	var parsed prom.ScrapeConfigs
	if err := yaml2.UnmarshalStrict(content, &parsed); err != nil {
		return fmt.Errorf("cannot use scrape configurations: %w", place(name, wrongItem(items), err))
	}
	for i, job := range parsed.ScrapeConfigs {
		line := 0
		if i < len(items) {
			line = items[i].Line
		}
		if err := addOne(built, sources, job, filepath.Dir(name)); err != nil {
			return fmt.Errorf("cannot use scrape configurations: %w", place(name, line, err))
		}
	}
	return nil
}

// addOne adds a job of a file in a directory, to which its paths are relative.
func addOne(built *prom.Config, sources map[string]discovery.Configs, job *prom.ScrapeConfig, dir string) error {
	if job == nil {
		return fmt.Errorf("the scrape configuration is empty")
	}
	job.SetDirectory(dir)
	return add(built, sources, job)
}

// scrapeItems are the items below scrape_configs, for their lines.
func scrapeItems(content []byte) []*yaml.Node {
	var document yaml.Node
	if yaml.Unmarshal(content, &document) != nil || len(document.Content) == 0 {
		return nil
	}
	top := document.Content[0].Content
	for i := 0; i+1 < len(top); i += 2 {
		if top[i].Value == "scrape_configs" {
			return top[i+1].Content
		}
	}
	return nil
}

// wrongItem is the line of the first item that cannot be read by itself, or 0: errors of a value as a whole have no line.
func wrongItem(items []*yaml.Node) int {
	for _, item := range items {
		alone, err := yaml.Marshal(item)
		if err != nil {
			return item.Line
		}
		var job prom.ScrapeConfig
		if yaml2.UnmarshalStrict(alone, &job) != nil {
			return item.Line
		}
	}
	return 0
}
