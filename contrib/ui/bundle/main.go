// Command bundle builds the web page that km carries along, without Node: it fetches the npm packages that package-lock.json names,
// checks their hashes, bundles them with the page's own code by esbuild's Go module, and writes the result compressed to the directory
// that contrib/ui embeds. `make build` runs it. It does nothing if nothing has changed, and needs no network if the packages have been
// fetched once.
//
//	bundle       build the page
//	bundle -dev  also unpack the packages that only checks and tests use, to web/node_modules
//
// Start reading at run.
package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"

	"github.com/evanw/esbuild/pkg/api"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	also := flag.String("also", "contrib/dashboards", "directory of further files that the page has parts of")
	web := flag.String("web", "contrib/ui/web", "directory of package.json and the page's code")
	out := flag.String("out", "contrib/ui/embedded", "directory to write the page to")
	dev := flag.Bool("dev", false, "also unpack the packages that only checks and tests use")
	flag.Parse()
	if err := run(ctx, place{*web, *also, *out}, *dev); err != nil {
		fmt.Fprintf(os.Stderr, "cannot build the web page: %v\n", err)
		stop()
		os.Exit(1)
	}
}

// place says where the page's parts are, and where it goes.
type place struct{ web, also, out string }

// run installs the packages and builds the page, each unless it is there.
func run(ctx context.Context, at place, dev bool) error {
	web, out := at.web, at.out
	lock, err := os.ReadFile(filepath.Join(web, "package-lock.json"))
	if err != nil {
		return err
	}
	packages, err := readLock(lock, dev)
	if err != nil {
		return err
	}
	stamp, err := fingerprint(web, at.also)
	if err != nil {
		return err
	}
	stampFile := filepath.Join(out, ".stamp")
	there, _ := os.ReadFile(stampFile) // without one, it is built
	if string(there) == stamp && !dev {
		return nil
	}
	store, err := newStore()
	if err != nil {
		return err
	}
	if err := store.install(ctx, web, packages); err != nil {
		return err
	}
	if string(there) == stamp {
		return nil
	}
	page, err := bundle(web)
	if err != nil {
		return err
	}
	shipped, err := readLock(lock, false)
	if err != nil {
		return err
	}
	if page["licenses.txt"], err = licenses(web, shipped); err != nil {
		return err
	}
	if err := write(out, page); err != nil {
		return err
	}
	return os.WriteFile(stampFile, []byte(stamp), 0o644)
}

// fingerprint names everything that the page is made of: what is in the directories, and this program.
func fingerprint(dirs ...string) (string, error) {
	hash := sha256.New()
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	files := []string{self}
	add := func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && entry.Name() == "node_modules":
			return filepath.SkipDir
		case !entry.IsDir():
			files = append(files, path)
		}
		return nil
	}
	for _, dir := range dirs {
		if err := filepath.WalkDir(dir, add); err != nil {
			return "", err
		}
	}
	for _, path := range files {
		file, err := os.Open(path)
		if err != nil {
			return "", err
		}
		if path != self {
			fmt.Fprintf(hash, "\x00%s\x00", path)
		}
		_, err = io.Copy(hash, file)
		if err := errors.Join(err, file.Close()); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// bundle returns the page's files by name: src/main.tsx with all that it imports, each file of src/lazy with all that it imports, and
// index.html with the names of the script and the style sheet instead of {{script}} and {{style}}. No file needs another one of which a
// page could have an older version, or which could get lost on its own.
func bundle(web string) (map[string][]byte, error) {
	dir, err := filepath.Abs(web)
	if err != nil {
		return nil, err
	}
	lazy, err := filepath.Glob(filepath.Join(dir, "src/lazy/*.ts"))
	if err != nil {
		return nil, err
	}
	page, paths := map[string][]byte{}, map[string]string{}
	for _, file := range lazy {
		parts, err := build(dir, file, nil)
		if err != nil {
			return nil, err
		}
		for name, data := range parts {
			page[name] = data
			paths[strings.TrimSuffix(filepath.Base(file), ".ts")] = "/assets/" + name
		}
	}
	lazyFiles, err := json.Marshal(paths)
	if err != nil {
		return nil, err
	}
	first, err := build(dir, "src/main.tsx", map[string]string{"lazyFiles": string(lazyFiles)})
	if err != nil {
		return nil, err
	}
	index, err := os.ReadFile(filepath.Join(web, "index.html"))
	if err != nil {
		return nil, err
	}
	for name, data := range first {
		page[name] = data
		index = bytes.ReplaceAll(index, []byte(placeholders[filepath.Ext(name)]), []byte(name))
	}
	page["index.html"] = index
	page["icon.svg"], err = os.ReadFile(filepath.Join(web, "icon.svg"))
	return page, err
}

// placeholders are what index.html has for the names of the first files.
var placeholders = map[string]string{".js": "{{script}}", ".css": "{{style}}"}

// build returns what esbuild makes of a script: one file, and one of its style sheets if it has any. Words are replaced as define says.
func build(dir, script string, define map[string]string) (map[string][]byte, error) {
	result := api.Build(api.BuildOptions{
		AbsWorkingDir: dir, EntryPoints: []string{script}, Outdir: filepath.Join(dir, "out"), Bundle: true, Format: api.FormatESModule,
		MinifyWhitespace: true, MinifyIdentifiers: true, MinifySyntax: true, Target: api.ES2022, Platform: api.PlatformBrowser,
		JSX: api.JSXAutomatic, JSXImportSource: "preact", EntryNames: "[name]-[hash]", AssetNames: "[name]-[hash]",
		LegalComments: api.LegalCommentsNone, LogLevel: api.LogLevelWarning, Define: define,
	})
	if len(result.Errors) > 0 {
		return nil, fmt.Errorf("esbuild found %d errors in %s", len(result.Errors), script)
	}
	files := map[string][]byte{}
	for _, file := range result.OutputFiles {
		files[filepath.Base(file.Path)] = file.Contents
	}
	return files, nil
}

// licenses returns the licenses of the packages that are part of the page: they ask to be told.
func licenses(web string, packages []npmPackage) ([]byte, error) {
	var all bytes.Buffer
	for _, p := range packages {
		fmt.Fprintf(&all, "%s %s (%s)\n\n", p.name(), p.Version, p.License)
		entries, err := os.ReadDir(filepath.Join(web, p.at))
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(entries, func(e fs.DirEntry) bool { return strings.HasPrefix(strings.ToUpper(e.Name()), "LICEN") })
		if i < 0 {
			continue // such a package has its license's name only
		}
		text, err := os.ReadFile(filepath.Join(web, p.at, entries[i].Name()))
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&all, "%s\n\n", bytes.TrimSpace(text))
	}
	return all.Bytes(), nil
}

// write replaces what is in the directory by the files, compressed.
func write(out string, page map[string][]byte) error {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	old, err := os.ReadDir(out)
	if err != nil {
		return err
	}
	for _, entry := range old {
		if entry.Name() == ".gitignore" {
			continue
		}
		if err := os.Remove(filepath.Join(out, entry.Name())); err != nil {
			return err
		}
	}
	for name, data := range page {
		var compressed bytes.Buffer
		to, err := gzip.NewWriterLevel(&compressed, gzip.BestCompression)
		if err != nil {
			return err
		}
		_, err = to.Write(data)
		if err := errors.Join(err, to.Close()); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(out, name+".gz"), compressed.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return nil
}
