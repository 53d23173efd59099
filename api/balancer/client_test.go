package balancer

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	logrustest "github.com/sirupsen/logrus/hooks/test"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	clienttesting "k8s.io/client-go/testing"
)

func slice(port int32, addresses ...string) *discoveryv1.EndpointSlice {
	name, tcp := "https", corev1.ProtocolTCP
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: sliceName},
		Ports:      []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &tcp}},
	}
	for _, address := range addresses {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{address}})
	}
	return s
}

func TestServersOfTheEndpointSliceAreFollowed(t *testing.T) {
	ca := newAuthority(t)
	b, err := New(Config{Seeds: []string{"192.0.2.9:6443"}, CAs: ca.pool})
	if err != nil {
		t.Fatal(err)
	}
	client := fake.NewClientset(slice(6443, "192.0.2.2", "192.0.2.1"))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- b.Follow(ctx, client) }()
	follows := func(want ...string) {
		t.Helper()
		until(t, "the slice is followed", func() bool { return cmp.Equal(want, b.Servers()) })
	}
	follows("192.0.2.1:6443", "192.0.2.2:6443")
	changed := slice(6443, "192.0.2.2", "2001:db8::1")
	if _, err := client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).Update(ctx, changed, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	follows("192.0.2.2:6443", "[2001:db8::1]:6443")
	cancel()
	<-ended
}

func TestClientsOfAConfigurationConnectToAnyServer(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	one, two := ca.start(t, "one", ""), ca.start(t, "two", "")
	config := &rest.Config{Host: "https://" + one.address(), TLSClientConfig: rest.TLSClientConfig{CAData: ca.pem}}
	b, err := Use(config)
	if err != nil {
		t.Fatal(err)
	}
	b.Set([]string{two.address()})
	one.kill()
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Get(config.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != 200 {
		t.Error(response.Status)
	}
}

func TestSeedIsTheHostOfTheURL(t *testing.T) {
	for url, want := range map[string]string{
		"https://10.0.0.1:6443": "10.0.0.1:6443", "https://api.example": "api.example:443", "https://[2001:db8::1]:6443/": "[2001:db8::1]:6443",
		"https://[2001:db8::1]": "[2001:db8::1]:443", "http://10.0.0.1": "", "10.0.0.1:6443": "", "": "",
	} {
		if got, err := Seed(url); got != want || (err == nil) != (want != "") {
			t.Errorf("%s: got %q, %v, want %q", url, got, err, want)
		}
	}
}

func TestUserWhoMayNotSeeTheServersGoesOnWithThoseThatAreKnown(t *testing.T) {
	hook := logrustest.NewGlobal()
	defer hook.Reset()
	ca := newAuthority(t)
	b, err := New(Config{Seeds: []string{"192.0.2.9:6443"}, CAs: ca.pool})
	if err != nil {
		t.Fatal(err)
	}
	client := fake.NewClientset()
	var asked atomic.Int32
	client.PrependReactor("list", "endpointslices", func(clienttesting.Action) (bool, runtime.Object, error) {
		asked.Add(1)
		return true, nil, apierrors.NewForbidden(discoveryv1.Resource("endpointslices"), sliceName, errors.New("not for you"))
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- b.Follow(ctx, client) }()
	until(t, "it has asked again", func() bool { return asked.Load() > 1 })
	cancel()
	<-ended
	if servers := b.Servers(); !cmp.Equal(servers, []string{"192.0.2.9:6443"}) {
		t.Errorf("it knows %q", servers)
	}
	if said := hook.AllEntries(); len(said) != 1 || said[0].Level != logrus.InfoLevel {
		t.Errorf("it says %d lines: %v", len(said), said)
	}
}
