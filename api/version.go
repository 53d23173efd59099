package api

import (
	"cmp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/semver"
)

// Version is the version of this build; the Makefile sets it at link time. KMVersion says what it looks like.
var Version = "dev"

// KubernetesVersion is the version of the stock Kubernetes programs inside km; a test holds it to go.mod.
const KubernetesVersion = "v1.36.3"

// KMVersion is the version of a build of km: what `git describe --tags --always --dirty` says, and, unless a tag says it all,
// "+" and the time of the commit in UTC: "v0.1.0", "v0.1.0-5-g49b5016+20261129T152122Z", "49b5016-dirty+20261129T152122Z".
// Any other text is a version too ("dev"), of which less is known. "" is that of a minion that tells none.
type KMVersion string

// VersionOrder is how two versions stand to each other.
type VersionOrder int

// Orders of versions.
const (
	VersionUnordered VersionOrder = iota // the versions do not tell which is newer
	VersionOlder
	VersionSame
	VersionNewer
	numVersionOrders
)

// String returns the order's name.
func (o VersionOrder) String() string {
	return [numVersionOrders]string{"unordered", "older", "same", "newer"}[o]
}

// Compare tells how v stands to w. It never leads in a circle: where each of a row of versions is newer than the one before,
// the last is not older than the first, nor the same. In this order it looks at:
//   - what is known: no version at all, a text without a time, a commit with its time, a tag
//   - the tag, as https://semver.org orders them, and the number of commits since
//   - the time of the commit, if both tell it
//   - at the same commit: a dirty tree is newer than a clean one.
func (v KMVersion) Compare(w KMVersion) VersionOrder {
	if v == w {
		return VersionSame
	}
	a, b := v.parts(), w.parts()
	order := cmp.Or(cmp.Compare(a.rank(), b.rank()), semver.Compare(a.tag, b.tag), cmp.Compare(a.commits, b.commits))
	if order == 0 && !a.committed.IsZero() && !b.committed.IsZero() {
		order = a.committed.Compare(b.committed)
	}
	switch {
	case order < 0, order == 0 && a.commit == b.commit && !a.dirty && b.dirty:
		return VersionOlder
	case order > 0, order == 0 && a.commit == b.commit && a.dirty && !b.dirty:
		return VersionNewer
	case a.commit == b.commit:
		return VersionSame
	}
	return VersionUnordered
}

// versionParts are those of a KMVersion.
type versionParts struct {
	tag       string // "" if there is none
	commits   int    // since the tag
	commit    string // "" if it is the tag's
	dirty     bool
	committed time.Time // zero if it is not told
}

// versionTime is the layout of the time in a version: a semantic version may have it after the "+".
const versionTime = "20060102T150405Z"

func (v KMVersion) parts() (p versionParts) {
	text, built, _ := strings.Cut(string(v), "+")
	if at, err := time.Parse(versionTime, built); err == nil {
		p.committed = at
	}
	text, p.dirty = strings.CutSuffix(text, "-dirty")
	if tag, commits, commit, ok := sinceTag(text); ok {
		p.tag, p.commits, p.commit = tag, commits, commit
		return p
	}
	if semver.IsValid(text) {
		p.tag = text
		return p
	}
	p.commit = text
	return p
}

// sinceTag reads TAG-COMMITS-gCOMMIT.
func sinceTag(text string) (tag string, commits int, commit string, ok bool) {
	rest, commit := cutLast(text, "-g")
	tag, number := cutLast(rest, "-")
	commits, err := strconv.Atoi(number)
	return tag, commits, commit, err == nil && commits >= 0 && commit != "" && semver.IsValid(tag)
}

// cutLast cuts around the last separator.
func cutLast(text, separator string) (before, after string) {
	i := strings.LastIndex(text, separator)
	if i < 0 {
		return text, ""
	}
	return text[:i], text[i+len(separator):]
}

// rank is how much is known: builds are told apart better from release to release, and what tells more came later.
func (p versionParts) rank() int {
	switch {
	case p.tag != "":
		return 3
	case !p.committed.IsZero():
		return 2
	case p.commit != "" || p.dirty:
		return 1
	}
	return 0
}
