// Package docs parses the project's Markdown pages, for tests that compare them with the code: code blocks, commands and links.
//
// Start reading at Pages and Blocks. It must never import what the pages describe: its tests and contrib/test/e2e do that.
package docs

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Kinds of code blocks, by the word behind their fence. Run is the only one that tests run.
const (
	Run     = "sh"      // commands, from the root of the tree, with a cluster up
	Console = "console" // a session as an example: commands after "$ ", and what they print
	YAML    = "yaml"    // a file as an example
	JSON    = "json"    // the same
	Text    = "text"    // a picture, or output
)

var kinds = []string{Run, Console, YAML, JSON, Text}

// Page is a Markdown file; its name is relative to the root of the tree, with slashes.
type Page struct{ Name, Text string }

// Block is a code block of a page.
type Block struct {
	Page string
	Line int // of the fence, from 1
	Kind string
	Text string
}

// Pages reads all Markdown files of the tree below root, except in what is built and in testdata.
func Pages(root string) ([]Page, error) {
	var pages []Page
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if name := entry.Name(); path != root && (name == "build" || name == "testdata" || name == "node_modules" || strings.HasPrefix(name, ".")) {
				return filepath.SkipDir
			}
			return nil
		}
		if filepath.Ext(path) != ".md" {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		pages = append(pages, Page{Name: filepath.ToSlash(name), Text: string(text)})
		return err
	})
	return pages, err
}

// Blocks returns the code blocks of a page. A block of unknown kind is an error. So is an indented block, which has no kind.
func (p Page) Blocks() ([]Block, error) {
	var blocks []Block
	var open *Block
	list, blank := false, true // whether a list goes on here, and whether the line before was empty
	for i, line := range strings.Split(p.Text, "\n") {
		at := fmt.Sprintf("%s:%d", p.Name, i+1)
		fence, fenced := strings.CutPrefix(strings.TrimSpace(line), "```")
		switch {
		case fenced && open != nil:
			blocks, open = append(blocks, *open), nil
		case fenced && !slices.Contains(kinds, fence):
			return nil, fmt.Errorf("%s: a code block marked %q: mark it as one of %s", at, fence, strings.Join(kinds, ", "))
		case fenced:
			open = &Block{Page: p.Name, Line: i + 1, Kind: fence}
		case open != nil:
			open.Text += line + "\n"
		case strings.HasPrefix(line, "    ") && blank && !list:
			return nil, fmt.Errorf("%s: a code block by indentation: fence it, and mark it as one of %s", at, strings.Join(kinds, ", "))
		case line != "" && line[0] != ' ':
			list = strings.HasPrefix(line, "- ") || line[0] >= '0' && line[0] <= '9'
		}
		blank = line == ""
	}
	if open != nil {
		return nil, fmt.Errorf("%s:%d: the code block does not end", p.Name, open.Line)
	}
	return blocks, nil
}

// Commands are the simple commands that a block shows, each as its words. Pipelines and lists are taken apart. Words lose their
// quotes; nothing is expanded.
func (b Block) Commands() [][]string {
	if b.Kind != Run && b.Kind != Console {
		return nil
	}
	var commands [][]string
	for line := range strings.Lines(strings.ReplaceAll(b.Text, "\\\n", " ")) {
		if b.Kind == Console {
			command, shown := strings.CutPrefix(line, "$ ")
			if !shown {
				continue
			}
			line = command
		}
		commands = append(commands, split(line)...)
	}
	return commands
}

// split takes a line of shell apart.
func split(line string) [][]string {
	var commands [][]string
	var words []string
	var word strings.Builder
	var quote rune
	started := false
	endWord := func() {
		if started {
			words = append(words, word.String())
		}
		word.Reset()
		started = false
	}
	endCommand := func() {
		endWord()
		if len(words) > 0 {
			commands = append(commands, words)
		}
		words = nil
	}
	for _, r := range line {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, started = r, true
		case r == '#' && !started:
			endCommand()
			return commands
		case r == ' ' || r == '\t' || r == '\n':
			endWord()
		case r == '|' || r == '&' || r == ';':
			endCommand()
		default:
			started = true
			word.WriteRune(r)
		}
	}
	endCommand()
	return commands
}

// Anchors are the names by which links reach a page's headings, as GitHub makes them: lower case, punctuation dropped, spaces to
// dashes.
func (p Page) Anchors() []string {
	var anchors []string
	fenced := false
	for line := range strings.Lines(p.Text) {
		if strings.HasPrefix(line, "```") {
			fenced = !fenced
		}
		title := strings.TrimLeft(line, "#")
		if fenced || title == line || !strings.HasPrefix(title, " ") {
			continue
		}
		anchors = append(anchors, strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r > 127:
				return r
			}
			return -1
		}, strings.ToLower(strings.TrimSpace(title))))
	}
	return anchors
}
