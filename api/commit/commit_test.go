package commit

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/k8sm/k8sm/api"
)

func TestImageNamesItsRegistryAndTag(t *testing.T) {
	for image, want := range map[string]string{
		"registry.example/web:1": "", "registry.example:5000/shop/web:20261130": "", "127.0.0.1:5000/a-b-198.51.100.1:1": "",
		"[fd00::1]:5000/web:1": "", "localhost:5000/web:1": "", "docker.io/me/web:1": "",
		"web:1":                    "give REGISTRY/NAME:TAG",
		"me/web:1":                 "give REGISTRY/NAME:TAG",
		"registry.example/web":     "give REGISTRY/NAME:TAG",
		"registry.example/Web:1":   "give REGISTRY/NAME:TAG",
		"registry.example/web:a/b": "give REGISTRY/NAME:TAG",
		"":                         "give REGISTRY/NAME:TAG",
		"registry.example/web@sha256:" + strings.Repeat("a", 64): "a digest follows from the image",
	} {
		_, err := ParseImage(image)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", image, err, want)
		}
	}
}

func TestKeyIsForTheImageOfThatAddress(t *testing.T) {
	for image, want := range map[string]string{
		"r.example/shop-web-198.51.100.1:20261130":        "/commiter/ips/shop-web-198.51.100.1:20261130",
		"r.example:5000/a/b/shop-web-198.51.100.1:monday": "/commiter/ips/shop-web-198.51.100.1:monday",
		"r.example/shop-web-198.51.100.10:20261130":       "",
		"r.example/shop-web:20261130":                     "",
		"r.example/-198.51.100.1:1":                       "",
		"shop-web-198.51.100.1:20261130":                  "",
	} {
		if got := Key(image, netip.MustParseAddr("198.51.100.1")); got != want {
			t.Errorf("%s: got %q, want %q", image, got, want)
		}
	}
	if got := Key("r.example/shop-web-fd00--5:1", netip.MustParseAddr("fd00::5")); got != "/commiter/ips/shop-web-fd00--5:1" {
		t.Errorf("IPv6: got %q", got)
	}
	if got := Key("r.example/shop-web-198.51.100.1:1", netip.Addr{}); got != "" {
		t.Errorf("without an address: %q", got)
	}
}

func TestDashedIsALabelAndAName(t *testing.T) {
	for address, want := range map[string]string{
		"198.51.100.1": "198.51.100.1", "fd00::5": "fd00--5", "::5": "0--5", "fd00::": "fd00--0", "::": "0--0", "::ffff:198.51.100.1": "198.51.100.1",
		"fe80::1%eth0": "fe80--1",
	} {
		got := Dashed(netip.MustParseAddr(address))
		if got != want || len(validation.IsValidLabelValue(got)) > 0 || len(validation.IsDNS1123Subdomain("a-b-"+got)) > 0 {
			t.Errorf("%s: got %q, want %q", address, got, want)
		}
		if _, err := ParseImage("r.example/a-b-" + got + ":1"); err != nil {
			t.Error(err)
		}
	}
}

func TestCommitIsReadAsWritten(t *testing.T) {
	want := Commit{
		ObjectMeta: metav1.ObjectMeta{Name: "web.main", Namespace: "shop"},
		Spec:       Spec{NodeName: "n", PodName: "web", PodUID: "u", Container: "main", Image: "r.example/web:1"},
		Status:     Status{Phase: Failed, Message: "no"},
	}
	object, err := want.Object()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Read(object)
	want.SetGroupVersionKind(Kind)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v, -want +got:\n%s", err, diff)
	}
	if _, err := Read(&unstructured.Unstructured{Object: map[string]any{"spec": "no"}}); err == nil {
		t.Error("an object without a spec is read")
	}
}

func TestNameIsBoundedAndUnique(t *testing.T) {
	if got := Name("web-x7k2p", "main"); got != "web-x7k2p.main" {
		t.Error(got)
	}
	long := strings.Repeat("a", 250)
	one, other := Name(long, "main"), Name(long, "mail")
	if one == other || len(validation.IsDNS1123Subdomain(one)) > 0 {
		t.Errorf("%s and %s", one, other)
	}
}

func shop() Component {
	return Component{Registry: "registry.example:5000", App: "shop", Name: "web", Tag: "20261130"}
}

func TestComponentOfWrongNamesIsRefused(t *testing.T) {
	for want, change := range map[string]func(*Component){
		"":                                   func(*Component) {},
		"cannot use --app=Shop":              func(c *Component) { c.App = "Shop" },
		"cannot use --app=":                  func(c *Component) { c.App = "" },
		"cannot use --component=a/b":         func(c *Component) { c.Name = "a/b" },
		"cannot use --component=..":          func(c *Component) { c.Name = ".." },
		"cannot use --registry=registry ":    func(c *Component) { c.Registry = "registry" },
		"cannot use --registry=http://r.e ":  func(c *Component) { c.Registry = "http://r.e" },
		"--tag=a b: ":                        func(c *Component) { c.Tag = "a b" },
		"cannot use --registry=r.example/P ": func(c *Component) { c.Registry = "r.example/P" },
	} {
		c := shop()
		change(&c)
		err := c.Validate()
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got %v, want %q", c, err, want)
		}
	}
	for _, registry := range []string{"registry.example", "registry.example/project", "[fd00::1]:5000", "127.0.0.1:5000", "registry.example/project/"} {
		c := shop()
		c.Registry = registry
		if err := c.Validate(); err != nil {
			t.Error(err)
		}
	}
}

const oldRC = `apiVersion: v1
kind: ReplicationController
metadata:
  name: web
  namespace: shop
  uid: 0a1b
  resourceVersion: "7"
  labels: {app: web}
  annotations: {team: green, kubectl.kubernetes.io/last-applied-configuration: "{}"}
spec:
  replicas: 3
  selector: {app: web}
  template:
    metadata:
      labels: {app: web, tier: front}
      annotations: {k8sm.io/ip-pool: office, note: keep}
    spec:
      containers:
      - name: main
        image: web:1
        imagePullPolicy: Never
        env: [{name: PASSWORD, valueFrom: {secretKeyRef: {name: db, key: password}}}]
      - {name: side, image: side:1}
status: {replicas: 3}
`

const newRC = `apiVersion: v1
kind: ReplicationController
metadata:
  annotations:
    team: green
  labels:
    IP: 198.51.100.1
    app: web
  name: shop-web-198.51.100.1
  namespace: shop
spec:
  replicas: 1
  selector:
    IP: 198.51.100.1
    app: web
  template:
    metadata:
      annotations:
        k8sm.io/ip: 198.51.100.1
        k8sm.io/ip-pool: office
        note: keep
      labels:
        IP: 198.51.100.1
        app: web
        tier: front
    spec:
      containers:
      - env:
        - name: PASSWORD
          valueFrom:
            secretKeyRef:
              key: password
              name: db
        image: registry.example:5000/shop-web-198.51.100.1:20261130
        imagePullPolicy: IfNotPresent
        name: main
        resources: {}
      - image: side:1
        name: side
        resources: {}
`

func TestPodRCMakesOnePodWithItsImageAndAddress(t *testing.T) {
	old, err := Unmarshal([]byte(oldRC))
	if err != nil {
		t.Fatal(err)
	}
	before := old.DeepCopy()
	address := netip.MustParseAddr("198.51.100.1")
	rc, err := PodRC(shop().PodRC(address), old, Replica{Container: "main", Image: shop().Image(address), Address: address, Pool: "office"})
	if err != nil {
		t.Fatal(err)
	}
	text, err := Marshal(rc)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(newRC, string(text)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if diff := cmp.Diff(before, old); diff != "" {
		t.Errorf("the old controller was changed:\n%s", diff)
	}
	again, err := Unmarshal(text)
	if diff := cmp.Diff(rc, again); err != nil || diff != "" {
		t.Errorf("%v, -written +read:\n%s", err, diff)
	}
}

func TestPodRCNeverHasAnAnswerOfTheScheduler(t *testing.T) {
	old, err := Unmarshal([]byte(oldRC))
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range api.PodSchedulerAnnotations() {
		old.Annotations[key], old.Spec.Template.Annotations[key] = "x", "x"
	}
	address := netip.MustParseAddr("fd00::5")
	rc, err := PodRC("a", old, Replica{Container: "main", Image: "r.example/a:1", Address: address, Pool: "office"})
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range api.PodSchedulerAnnotations() {
		if rc.Annotations[key]+rc.Spec.Template.Annotations[key] != "" {
			t.Errorf("it has %s", key)
		}
	}
	if rc.Spec.Selector[LabelIP] != "fd00--5" || rc.Spec.Template.Annotations[api.AnnotationIP] != "fd00::5" {
		t.Errorf("got %v and %v", rc.Spec.Selector, rc.Spec.Template.Annotations)
	}
}

func TestPodRCOfAnUnfitControllerIsRefused(t *testing.T) {
	old, err := Unmarshal([]byte(oldRC))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := PodRC("a", old, Replica{Container: "other"}); err == nil || !strings.Contains(err.Error(), "no container other") {
		t.Errorf("got %v", err)
	}
	old.Spec.Template = nil
	if _, err := PodRC("a", old, Replica{Container: "main"}); err == nil || !strings.Contains(err.Error(), "no pod template") {
		t.Errorf("got %v", err)
	}
}

func TestSavedControllerCanBeCreatedAgain(t *testing.T) {
	old, err := Unmarshal([]byte(oldRC))
	if err != nil {
		t.Fatal(err)
	}
	s := Saved(old)
	if s.UID != "" || s.ResourceVersion != "" || s.Status.Replicas != 0 || s.Name != "web" || *s.Spec.Replicas != 3 || s.Annotations["team"] != "green" || len(s.Annotations) != 1 {
		t.Errorf("got %+v", s)
	}
	if !cmp.Equal(s.Spec, old.Spec) {
		t.Error("its spec is another")
	}
}

func TestWhatIsNoControllerIsNotRead(t *testing.T) {
	for text, want := range map[string]string{
		"": "a file without a kind", "kind: Pod\napiVersion: v1\nmetadata: {name: a}\nspec: {}": "unknown field", "kind: Service\napiVersion: v1\nmetadata: {name: a}": "but a Service",
		"{": "it is no ReplicationController", oldRC + "more: 1\n": "more", "kind: ReplicationController\napiVersion: v1\n": "with a name",
	} {
		if _, err := Unmarshal([]byte(text)); err == nil {
			t.Errorf("%q is read", text)
		} else if !strings.Contains(err.Error(), want) && want != "unknown field" {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}

// FuzzPodRC: whatever the controller, names and address, a pod_rc selects its own pods, and comes back from its file as it was.
func FuzzPodRC(f *testing.F) {
	f.Add([]byte(oldRC), "shop", "web", "198.51.100.1", "20261130")
	f.Add([]byte(oldRC), "a", "b", "::", "1")
	f.Fuzz(func(t *testing.T, text []byte, app, component, ip, tag string) {
		old, err := Unmarshal(text)
		if err != nil {
			return
		}
		address, err := netip.ParseAddr(ip)
		c := Component{Registry: "r.example", App: app, Name: component, Tag: tag}
		if err != nil || c.Validate() != nil || old.Spec.Template == nil || len(old.Spec.Template.Spec.Containers) == 0 {
			return
		}
		replica := Replica{Container: old.Spec.Template.Spec.Containers[0].Name, Image: c.Image(address), Address: address, Pool: "office"}
		rc, err := PodRC(c.PodRC(address), old, replica)
		if err != nil {
			t.Fatal(err)
		}
		if len(validation.IsDNS1123Subdomain(rc.Name)) > 0 || Key(replica.Image, address) == "" {
			t.Errorf("names %s and %s", rc.Name, replica.Image)
		}
		checkPodRC(t, rc, old)
	})
}

func checkPodRC(t *testing.T, rc, old *corev1.ReplicationController) {
	t.Helper()
	for key, value := range rc.Spec.Selector {
		if own, all := rc.Spec.Template.Labels[key], old.Spec.Selector[key]; own != value && all != value {
			t.Errorf("its selector has %s=%s, and its template %s", key, value, own)
		}
	}
	if rc.Spec.Selector[LabelIP] == "" || rc.Spec.Template.Labels[LabelIP] != rc.Spec.Selector[LabelIP] || *rc.Spec.Replicas != 1 {
		t.Errorf("got %+v", rc.Spec)
	}
	text, err := Marshal(rc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Unmarshal(text); err != nil {
		t.Errorf("%v in\n%s", err, text)
	}
}
