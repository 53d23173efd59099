package controlplane

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/statedir"
)

// caReports is where each control plane says which CAs it has, below its address. It stays when the control plane dies.
const caReports = "/k8sm-keys/authorities/"

// caReport is what a control plane says of a CA. CAs are named by api.AuthorityID.
type caReport struct {
	// Issuer is the one that issues its certificates, and Trusts are those that it trusts.
	Issuer string   `json:"issuer"`
	Trusts []string `json:"trusts"`
	// Settled says that its clients use no connection with certificates of an earlier one, by the clock of its machine.
	Settled bool `json:"settled"`
}

// caReportOf returns what there is to say of the CAs in a directory.
func caReportOf(dir statedir.Dir, now time.Time) (map[string]caReport, error) {
	cas, err := dir.Rotations()
	if err != nil {
		return nil, err
	}
	all := map[string]caReport{}
	for _, ca := range cas {
		r := caReport{Issuer: api.AuthorityID(ca.Issuer), Settled: ca.Phase == statedir.Steady || now.Sub(ca.Since) >= settling}
		r.Trusts = append(r.Trusts, r.Issuer)
		if ca.Other != nil {
			r.Trusts = append(r.Trusts, api.AuthorityID(ca.Other))
		}
		all[ca.Authority] = r
	}
	return all, nil
}

// readCAReports returns what control planes have said, by their addresses and the names of CAs.
func readCAReports(ctx context.Context, client *clientv3.Client) (map[string]map[string]caReport, error) {
	got, err := client.Get(ctx, caReports, clientv3.WithPrefix())
	if err != nil {
		return nil, fmt.Errorf("cannot read which CAs control planes have: %w", err)
	}
	all := map[string]map[string]caReport{}
	for _, kv := range got.Kvs {
		var one map[string]caReport
		if err := json.Unmarshal(kv.Value, &one); err != nil {
			return nil, fmt.Errorf("cannot read %s: %w", kv.Key, err)
		}
		all[strings.TrimPrefix(string(kv.Key), caReports)] = one
	}
	return all, nil
}

// reportAuthorities says which CAs this control plane has, whenever that changes, until ctx ends.
func (c Config) reportAuthorities(ctx context.Context, admin clients) {
	if admin.keys == nil {
		return // it may not write there
	}
	key, said := caReports+strings.TrimPrefix(admin.url, "https://"), ""
	tick := time.NewTicker(authoritiesPoll)
	defer tick.Stop()
	for {
		now, err := caReportOf(c.StateDir, time.Now())
		if text, _ := json.Marshal(now); err == nil && string(text) != said {
			if err = put(ctx, admin.keys.Client, key, string(text)); err == nil {
				said = string(text)
			}
		}
		if err != nil && ctx.Err() == nil {
			logrus.WithError(err).Warn("cannot say which CAs this control plane has: trying again")
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// put writes a key, or gives up.
func put(ctx context.Context, client *clientv3.Client, key, value string) error {
	ctx, cancel := context.WithTimeout(ctx, sharePatience)
	defer cancel()
	_, err := client.Put(ctx, key, value)
	return err
}
