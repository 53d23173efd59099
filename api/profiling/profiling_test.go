package profiling

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestProfilesAreServed(t *testing.T) {
	for path, want := range map[string]string{
		"": "goroutine", "goroutine?debug=1": "goroutine profile: total", "heap": "\x1f\x8b", "profile?seconds=1": "\x1f\x8b", "cmdline": "profiling.test",
	} {
		answer := httptest.NewRecorder()
		Handler().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, Path+path, nil))
		if answer.Code != http.StatusOK || !strings.Contains(answer.Body.String(), want) {
			t.Errorf("%s answers %d, without %q", Path+path, answer.Code, want)
		}
	}
}
