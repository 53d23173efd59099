package state

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func authority(fingerprint string, life time.Duration) []Authority {
	return []Authority{{SHA256: fingerprint, NotAfter: time.Now().Add(life)}}
}

func TestEtcdBelongsToTheFirstClusterThatClaimsIt(t *testing.T) {
	endpoint := etcd(t)
	s, other := open(t, endpoint, "a"), open(t, endpoint, "b")
	first, second := authority("1st", time.Hour), authority("2nd", time.Hour)
	if err := s.CheckOwner(t.Context(), second); err != nil {
		t.Errorf("before a claim: %v", err)
	}
	for range 2 { // a restart
		if err := s.Claim(t.Context(), first); err != nil {
			t.Fatal(err)
		}
	}
	for _, stranger := range [][]Authority{second, nil} {
		for what, err := range map[string]error{"claim": s.Claim(t.Context(), stranger), "check": s.CheckOwner(t.Context(), stranger)} {
			if !errors.Is(err, ErrOtherCluster) || !strings.Contains(err.Error(), "its SHA-256 is 1st, that of the CA here is "+fingerprints(stranger)) {
				t.Errorf("%s by %q: %v", what, fingerprints(stranger), err)
			}
		}
	}
	if err := s.CheckOwner(t.Context(), first); err != nil {
		t.Errorf("the owner: %v", err)
	}
	if err := other.Claim(t.Context(), second); err != nil {
		t.Errorf("a cluster with another name: %v", err)
	}
}

func TestOneOfSeveralClaimsWins(t *testing.T) {
	s := open(t, etcd(t), "a")
	results := make([]error, 8)
	var claims sync.WaitGroup
	for i := range results {
		claims.Go(func() { results[i] = s.Claim(t.Context(), authority(strings.Repeat("x", i+1), time.Hour)) })
	}
	claims.Wait()
	won := 0
	for _, err := range results {
		if err == nil {
			won++
		} else if !errors.Is(err, ErrOtherCluster) {
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d of %d claims won", won, len(results))
	}
}

// An operator lets the CA end, and makes a new one.
func TestCAThatHasEndedIsReplaced(t *testing.T) {
	s := open(t, etcd(t), "a")
	ended, next := authority("ended", -time.Hour), authority("next", time.Hour)
	for _, a := range [][]Authority{ended, next, next} {
		if err := s.Claim(t.Context(), a); err != nil {
			t.Errorf("%s: %v", fingerprints(a), err)
		}
	}
	if err := s.Claim(t.Context(), ended); !errors.Is(err, ErrOtherCluster) {
		t.Errorf("the CA that ended: %v", err)
	}
}

func TestCAThatReplacesAnotherBelongsToTheCluster(t *testing.T) {
	s := open(t, etcd(t), "a")
	old, next := authority("old", time.Hour), authority("next", time.Hour)
	both := slices.Concat(next, old)
	for _, a := range [][]Authority{old, both, old, next} { // as control planes get it, one after another
		if err := errors.Join(s.CheckOwner(t.Context(), a), s.Claim(t.Context(), a)); err != nil {
			t.Errorf("%s: %v", fingerprints(a), err)
		}
	}
	if err := s.Claim(t.Context(), authority("stranger", time.Hour)); !errors.Is(err, ErrOtherCluster) {
		t.Errorf("a stranger: %v", err)
	}
}

func TestReplacedAuthorityIsAStrangers(t *testing.T) {
	s := open(t, etcd(t), "a")
	former, next := authority("former", time.Hour), authority("next", time.Hour)
	for _, step := range []error{s.Claim(t.Context(), former), s.Claim(t.Context(), append(former, next...)), s.CheckOwner(t.Context(), former), s.ClaimAlone(t.Context(), next)} {
		if step != nil {
			t.Fatal(step)
		}
	}
	if err := s.CheckOwner(t.Context(), former); !errors.Is(err, ErrOtherCluster) {
		t.Errorf("the former CA: %v", err)
	}
	if err := s.ClaimAlone(t.Context(), authority("stranger", time.Hour)); !errors.Is(err, ErrOtherCluster) {
		t.Errorf("a stranger: %v", err)
	}
	if err := s.CheckOwner(t.Context(), next); err != nil {
		t.Error(err)
	}
}

func TestClaimThatCannotBeReadIsNobodys(t *testing.T) {
	s := open(t, etcd(t), "a")
	if _, err := s.client.Put(t.Context(), IdentityKey("a"), "{"); err != nil {
		t.Fatal(err)
	}
	if err := s.Claim(t.Context(), authority("x", time.Hour)); err == nil || errors.Is(err, ErrOtherCluster) {
		t.Errorf("got %v", err)
	}
}

func TestPlainEtcdIsRefusedUnlessMeant(t *testing.T) {
	for endpoint, test := range map[string]struct {
		insecure bool
		want     string
	}{
		"https://10.0.0.5:2379":     {},
		"https://[fd00::5]:2379":    {insecure: true},
		"http://10.0.0.5:2379":      {want: "give https://10.0.0.5:2379, or set --insecure-etcd"},
		"http://localhost:2379":     {want: "--insecure-etcd"},
		"http://10.0.0.6:2379":      {insecure: true},
		"10.0.0.5:2379":             {want: "give URLs such as https://10.0.0.5:2379", insecure: true},
		"unix:///run/etcd.sock":     {want: "give URLs"},
		"HTTP://10.0.0.7:2379":      {want: "--insecure-etcd"},
		"https://":                  {want: "give URLs"},
		"https://10.0.0.5:2379\x00": {want: "give URLs"},
	} {
		err := CheckEndpoints([]string{"https://e:1", endpoint}, test.insecure)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s, insecure %t: got %v, want %q", endpoint, test.insecure, err, test.want)
		}
	}
}
