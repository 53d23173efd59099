//nolint:staticcheck // the API of 2014 has Endpoints, and nothing else can write those without a selector
package v1beta1

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestEndpointsAreThoseOfTheFirstPortThatAreReady(t *testing.T) {
	service := &v1.Service{Spec: v1.ServiceSpec{Ports: []v1.ServicePort{{Name: "www"}, {Name: "other"}}}}
	list := []*discovery.EndpointSlice{
		{
			ObjectMeta: metav1.ObjectMeta{ResourceVersion: "7"},
			Ports:      []discovery.EndpointPort{{Name: new("other"), Port: new(int32(1))}, {Name: new("www"), Port: new(int32(80))}, {Name: new("www")}, {Port: new(int32(2))}},
			Endpoints: []discovery.Endpoint{
				{Addresses: []string{"192.0.2.9"}, Conditions: discovery.EndpointConditions{Ready: new(true)}},
				{Addresses: []string{"192.0.2.8"}, Conditions: discovery.EndpointConditions{Ready: new(false)}},
				{Addresses: []string{"192.0.2.10"}},
			},
		},
		{
			ObjectMeta: metav1.ObjectMeta{ResourceVersion: "5"},
			Ports:      []discovery.EndpointPort{{Name: new("www"), Port: new(int32(80))}},
			Endpoints:  []discovery.Endpoint{{Addresses: []string{"2001:db8::1"}}, {Addresses: []string{"192.0.2.9"}}, {Addresses: []string{"a.example"}}},
		},
	}
	e := FromV1Endpoints(service, nil, list)
	if diff := cmp.Diff(e.Endpoints, []string{"192.0.2.10:80", "192.0.2.9:80", "[2001:db8::1]:80"}); diff != "" || e.ResourceVersion != 7 {
		t.Errorf("the endpoints are - and should be +, with version %d:\n%s", e.ResourceVersion, diff)
	}
	if got := encode(t, FromV1Endpoints(&v1.Service{}, nil, nil)); got != `{"creationTimestamp":null,"endpoints":[]}` {
		t.Errorf("no endpoints are %s", got)
	}
}

func TestEndpointsAreThoseThatWereWrittenToo(t *testing.T) {
	service := &v1.Service{Spec: v1.ServiceSpec{Ports: []v1.ServicePort{{Name: "www"}}}}
	written := &v1.Endpoints{
		ObjectMeta: metav1.ObjectMeta{ResourceVersion: "8", Annotations: map[string]string{"a": "b"}},
		Subsets: []v1.EndpointSubset{{
			Addresses:         []v1.EndpointAddress{{IP: "192.0.2.1"}, {IP: "2001:db8::1"}},
			NotReadyAddresses: []v1.EndpointAddress{{IP: "192.0.2.2"}},
			Ports:             []v1.EndpointPort{{Name: "other", Port: 1}, {Name: "www", Port: 80}},
		}},
	}
	slice := func(labels map[string]string, ip string) *discovery.EndpointSlice {
		return &discovery.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{ResourceVersion: "9", Labels: labels},
			Ports:      []discovery.EndpointPort{{Name: new("www"), Port: new(int32(80))}},
			Endpoints:  []discovery.Endpoint{{Addresses: []string{ip}}},
		}
	}
	for _, c := range []struct {
		name   string
		labels map[string]string
		slices []*discovery.EndpointSlice
		want   string
	}{
		{"alone", nil, nil, `"resourceVersion":8,"annotations":{"a":"b"},"endpoints":["192.0.2.1:80","[2001:db8::1]:80"]}`},
		{"with slices made of them, which are late", nil, []*discovery.EndpointSlice{slice(map[string]string{discovery.LabelManagedBy: mirroringController}, "192.0.2.9")},
			`"resourceVersion":8,"annotations":{"a":"b"},"endpoints":["192.0.2.1:80","[2001:db8::1]:80"]}`},
		{"with slices of others", nil, []*discovery.EndpointSlice{slice(nil, "192.0.2.9"), slice(nil, "192.0.2.1")},
			`"resourceVersion":9,"annotations":{"a":"b"},"endpoints":["192.0.2.1:80","192.0.2.9:80","[2001:db8::1]:80"]}`},
		{"made by a controller", map[string]string{managedBy: endpointsController}, []*discovery.EndpointSlice{slice(nil, "192.0.2.9")},
			`"resourceVersion":9,"endpoints":["192.0.2.9:80"]}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			written.Labels = c.labels
			same(t, encode(t, FromV1Endpoints(service, written, c.slices)), `{"creationTimestamp":null,`+c.want)
		})
	}
}

func subset(port v1.EndpointPort, ips ...string) v1.EndpointSubset {
	s := v1.EndpointSubset{Ports: []v1.EndpointPort{port}}
	for _, ip := range ips {
		s.Addresses = append(s.Addresses, v1.EndpointAddress{IP: ip})
	}
	return s
}

func TestEndpointsBecomeSubsetsOfTheServicesPort(t *testing.T) {
	tcp := v1.EndpointPort{Port: 80, Protocol: v1.ProtocolTCP}
	other := tcp
	other.Port = 81
	dns := v1.EndpointPort{Name: "dns", Port: 53, Protocol: v1.ProtocolUDP, AppProtocol: new("a")}
	for _, c := range []struct {
		name    string
		service []v1.ServicePort
		body    string
		want    []v1.EndpointSubset
	}{
		{"none", nil, `{}`, nil},
		{"one", []v1.ServicePort{{Protocol: v1.ProtocolTCP}}, `{"endpoints":["10.0.0.1:80"]}`, []v1.EndpointSubset{subset(tcp, "10.0.0.1")}},
		{"of a service without ports", nil, `{"endpoints":["10.0.0.1:80"]}`, []v1.EndpointSubset{subset(tcp, "10.0.0.1")}},
		{"of two ports, in order", nil, `{"endpoints":["10.0.0.10:80","10.0.0.3:81","10.0.0.9:80","10.0.0.9:80"]}`,
			[]v1.EndpointSubset{subset(tcp, "10.0.0.9", "10.0.0.10"), subset(other, "10.0.0.3")}},
		{"of a port with a name", []v1.ServicePort{{Name: "dns", Protocol: v1.ProtocolUDP, AppProtocol: new("a"), Port: 5}, {Name: "x"}}, `{"endpoints":["10.0.0.1:53"]}`,
			[]v1.EndpointSubset{subset(dns, "10.0.0.1")}},
		{"of IPv6", nil, `{"endpoints":["[fd00::1]:80","[::ffff:10.0.0.1]:80","[fd00:0::2]:80"]}`, []v1.EndpointSubset{subset(tcp, "10.0.0.1", "fd00::1", "fd00::2")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			service := &v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "s"}, Spec: v1.ServiceSpec{Ports: c.service}}
			o, err := OverlayEndpoints(&v1.Endpoints{}, service, decode(t, c.body, "Endpoints").(*Endpoints))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(o, &v1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "s"}, Subsets: c.want}); diff != "" {
				t.Errorf("v1 has -, and should have +:\n%s", diff)
			}
		})
	}
}

func TestEndpointsThatNoServiceCanHaveAreRefused(t *testing.T) {
	many := make([]string, maxEndpoints+2)
	for i := range many {
		many[i] = fmt.Sprintf("10.0.%d.%d:80", i/250, i%250+1)
	}
	const address = "give an address and a port, such as 10.1.2.3:6379 or [fd00::1]:6379"
	const here = "no node can send there: the address is one of its own machine or link"
	for entries, want := range map[string]string{
		"db.example:80":                    "endpoints[0]: invalid value 'db.example:80': " + address,
		"10.0.0.1":                         "endpoints[0]: invalid value '10.0.0.1': " + address,
		"10.0.0.1:":                        address,
		"10.0.0.1:0":                       address,
		"10.0.0.1:65536":                   address,
		"10.0.0.1:http":                    address,
		"010.0.0.1:80":                     address,
		":80":                              address,
		"":                                 address,
		"http://10.0.0.1/":                 address,
		"[fe80::1%lo]:80":                  address,
		"10.0.0.1:80,oops":                 "endpoints[1]: invalid value 'oops': " + address,
		"127.0.0.1:80":                     "endpoints[0]: invalid value '127.0.0.1:80': " + here,
		"[::ffff:127.0.0.1]:80":            here,
		"0.0.0.0:80":                       here,
		"169.254.169.254:80":               here,
		"224.0.0.1:80":                     here,
		"[fe80::1]:80":                     here,
		"10.0.0.1:80,[::ffff:10.0.0.1]:81": "endpoints[1]: duplicate value '[::ffff:10.0.0.1]:81': an address has one port today, and this one has 80 already",
		strings.Join(many, ","):            "endpoints[1000]: invalid value '10.0.4.1:80': a service has 1000 endpoints with the same port at most",
	} {
		e := &Endpoints{Meta: Meta{ID: "s"}, Endpoints: strings.Split(entries, ",")}
		_, err := OverlayEndpoints(&v1.Endpoints{}, &v1.Service{}, e)
		s := status(t, err)
		if s.Code != 422 || s.Reason != "Invalid" || len(s.Details.Causes) != 1 || !strings.Contains(s.Message, want) || s.Details.Kind != "endpoints" || s.Details.ID != "s" {
			t.Errorf("%.40s: %s", entries, encode(t, s))
		}
	}
}

func TestWrittenEndpointsKeepWhatIsNotShown(t *testing.T) {
	service := &v1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: v1.ServiceSpec{Ports: []v1.ServicePort{{Name: "www", Protocol: v1.ProtocolTCP}}}}
	www, other := v1.EndpointPort{Name: "www", Port: 80, Protocol: v1.ProtocolTCP}, v1.EndpointPort{Name: "other", Port: 1, Protocol: v1.ProtocolUDP}
	known := v1.EndpointAddress{IP: "10.0.0.1", Hostname: "one", NodeName: new("n1")}
	stored := &v1.Endpoints{
		ObjectMeta: metav1.ObjectMeta{
			Name: "s", ResourceVersion: "7", Labels: map[string]string{"l": "m", managedBy: endpointsController}, Annotations: map[string]string{"old": "x", "kubernetes.io/y": "z"},
		},
		Subsets: []v1.EndpointSubset{{
			Addresses:         []v1.EndpointAddress{known, {IP: "10.0.0.2"}},
			NotReadyAddresses: []v1.EndpointAddress{{IP: "10.0.0.3"}, {IP: "10.0.0.4"}},
			Ports:             []v1.EndpointPort{other, www},
		}},
	}
	before := stored.DeepCopy()
	o, err := OverlayEndpoints(stored, service, &Endpoints{Meta: Meta{Annotations: map[string]string{"new": "x"}}, Endpoints: []string{"10.0.0.1:80", "10.0.0.3:81"}})
	if err != nil {
		t.Fatal(err)
	}
	moved := www
	moved.Port = 81
	want := &v1.Endpoints{
		ObjectMeta: metav1.ObjectMeta{Name: "s", ResourceVersion: "7", Labels: map[string]string{"l": "m"}, Annotations: map[string]string{"new": "x", "kubernetes.io/y": "z"}},
		Subsets: []v1.EndpointSubset{
			{Addresses: before.Subsets[0].Addresses, NotReadyAddresses: before.Subsets[0].NotReadyAddresses, Ports: []v1.EndpointPort{other}},
			{NotReadyAddresses: []v1.EndpointAddress{{IP: "10.0.0.4"}}, Ports: []v1.EndpointPort{www}},
			{Addresses: []v1.EndpointAddress{known}, Ports: []v1.EndpointPort{www}},
			subset(moved, "10.0.0.3"),
		},
	}
	if diff := cmp.Diff(o, want); diff != "" {
		t.Errorf("v1 has -, and should have +:\n%s", diff)
	}
	if diff := cmp.Diff(stored, before); diff != "" {
		t.Errorf("what was stored has changed:\n%s", diff)
	}
}
