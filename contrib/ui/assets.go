package ui

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"errors"
	"fmt"
	"html"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"regexp"
	"strings"
)

// embedded always contains a file, so that `go build` works without the page, which make builds.
//
//go:embed all:embedded
var embedded embed.FS

// errNotBuilt is why there is no page.
var errNotBuilt = errors.New("km was built without its web page: build it with make")

// pages serves the page and its assets.
type pages struct {
	files  fs.FS // compressed files, NAME.gz
	index  []byte
	inline string // the sources of the scripts that are in index, as a policy has them
}

// newPages reads the page that km carries along.
func newPages(embedded fs.FS) (*pages, error) {
	files, err := fs.Sub(embedded, "embedded")
	if err != nil {
		return nil, err
	}
	compressed, err := fs.ReadFile(files, "index.html.gz")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNotBuilt
	}
	if err != nil {
		return nil, err
	}
	reader, err := gzip.NewReader(bytes.NewReader(compressed))
	if err != nil {
		return nil, err
	}
	index, err := io.ReadAll(reader)
	return &pages{files: files, index: index, inline: inlineScripts(index)}, err
}

var script = regexp.MustCompile(`(?s)<script>(.*?)</script>`)

// inlineScripts are the hashes of a page's own scripts (https://www.w3.org/TR/CSP3/#match-element-to-source-list).
func inlineScripts(page []byte) (sources string) {
	for _, found := range script.FindAllSubmatch(page, -1) {
		sum := sha256.Sum256(found[1])
		sources += " 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	}
	return sources
}

// serveIndex serves the page. Each response has a nonce of its own.
func (p *pages) serveIndex(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		refuse(w, http.StatusMethodNotAllowed, fmt.Errorf("%s is not possible here", r.Method))
		return
	}
	nonce := random()
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'"+p.inline+"; style-src 'self' 'nonce-"+nonce+"'; connect-src 'self'; img-src 'self' data:; "+
		"form-action 'none'; frame-ancestors 'none'; base-uri 'none'")
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	_, _ = w.Write(bytes.ReplaceAll(p.index, []byte("{{nonce}}"), []byte(html.EscapeString(nonce)))) // a browser that has gone wants no page
}

// serveAsset serves a file of the page. Names with a hash never change.
func (p *pages) serveAsset(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	data, err := fs.ReadFile(p.files, name+".gz")
	if err != nil || name == "index.html" {
		http.Error(w, "the page has no file "+name+": reload it", http.StatusNotFound)
		return
	}
	h := w.Header()
	h.Set("Content-Type", mime.TypeByExtension(path.Ext(name)))
	if path.Ext(name) == ".txt" {
		h.Set("Content-Type", "text/plain; charset=utf-8")
	}
	h.Set("Cache-Control", "no-cache")
	if path.Ext(name) == ".js" || path.Ext(name) == ".css" {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		h.Set("Content-Encoding", "gzip")
		_, _ = w.Write(data)
		return
	}
	reader, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_, _ = io.Copy(w, reader)
}
