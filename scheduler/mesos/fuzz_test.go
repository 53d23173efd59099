package mesos

import (
	"net/url"
	"strings"
	"testing"

	mesossched "github.com/mesos/mesos-go/api/v1/lib/scheduler"
)

func FuzzZooKeeperAddress(f *testing.F) {
	for _, seed := range []string{
		"zk://h:2181/mesos", "zk://u:p@h1:1,h2:2,h3/mesos", "zk://", "zk:///mesos", "zk://h", "zk://[::1]:2181/mesos", "zk://[::1]/mesos",
		"zk://u@h/mesos", "zk://h:99999/mesos", "zk://h,,/mesos", "zk://a:b@c:d@e/../..", "zk://h/mesos/../x", "2:@2/0", "0[0/0",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		z, err := parseZooKeeper(text)
		if err != nil {
			return
		}
		if len(z.servers) == 0 || !strings.HasPrefix(z.path, "/") || z.path == "/" {
			t.Errorf("%q is read as servers %q and path %q", text, z.servers, z.path)
		}
		if again, err := parseZooKeeper(z.String()); err != nil || again.credentials != "" || again.String() != z.String() {
			t.Errorf("%q is told as %s, which is read as %v (%v)", text, z, again, err)
		}
	})
}

func FuzzMasterInfo(f *testing.F) {
	for _, seed := range []string{
		`{"address":{"hostname":"m","ip":"10.0.0.1","port":5050},"pid":"master@10.0.0.1:5050"}`, `{"pid":"master@10.0.0.1:5050"}`, `{"pid":"master"}`,
		`{}`, ``, `null`, `{"address":{"ip":"::1","port":5050}}`, `{"address":{"ip":"10.0.0.1","port":-1}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, scheme := range []string{"http", "https"} {
			text, err := urlOf(data, scheme)
			if err == nil && !strings.HasPrefix(text, scheme+"://") {
				t.Errorf("%q has the URL %q", data, text)
			}
		}
	})
}

func FuzzRegisteredMasters(f *testing.F) {
	f.Add("json.info_0000000001 json.info_0000000000")
	f.Add("info_0000000000")
	f.Add("json.info_ json.info_x log_replicas")
	f.Add("json.info_-1 json.info_99999999999999999999")
	f.Fuzz(func(t *testing.T, text string) {
		names := strings.Fields(text)
		leader, err := leadingOf(names)
		if err == nil && !strings.HasPrefix(leader, registeredJSON) {
			t.Errorf("of %q, %q leads", names, leader)
		}
	})
}

// FuzzEvents has the bytes of an event translated that a master may send.
func FuzzEvents(f *testing.F) {
	offer := &mesossched.Event{Type: mesossched.Event_OFFERS, Offers: &mesossched.Event_Offers{}}
	for _, event := range []*mesossched.Event{
		offer, {Type: mesossched.Event_UPDATE}, {Type: mesossched.Event_RESCIND}, {Type: mesossched.Event_INVERSE_OFFERS},
		{Type: mesossched.Event_RESCIND_INVERSE_OFFER}, {Type: mesossched.Event_FAILURE}, {Type: mesossched.Event_HEARTBEAT}, {},
	} {
		data, err := event.Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var event mesossched.Event
		if event.Unmarshal(data) != nil {
			return
		}
		events, err := eventsOf(&event)
		if err != nil && len(events) > 0 {
			t.Errorf("%v and an error: %v", events, err)
		}
	})
}

// FuzzRedirection reads where a master that does not lead redirects to.
func FuzzRedirection(f *testing.F) {
	for _, seed := range []string{"//10.0.0.1:5050", "http://h:5050/api/v1/scheduler", "%zz", "", "//", "//[::1", "//user@h:1/x?y", "//h:x", "//::"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, location string) {
		for _, scheme := range []string{"http", "https"} {
			leader := leaderOf(scheme+"://10.0.0.1:5050"+schedulerPath, location)
			if u, err := url.Parse(leader); leader != "" && (err != nil || u.Scheme != scheme || u.Host == "") {
				t.Errorf("%q leads to %q (%v)", location, leader, err)
			}
		}
	})
}
