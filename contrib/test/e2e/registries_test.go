package e2e

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	dockerimage "github.com/docker/docker/api/types/image"
	dockerregistry "github.com/docker/docker/api/types/registry"
	"github.com/docker/docker/pkg/jsonmessage"
	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api/mesoshttp/mesoshttptest"
	"github.com/k8sm/k8sm/contrib/test/scratch"
	"github.com/k8sm/k8sm/contrib/test/suite"
)

// The one user of the registry is named as Harbor names robot accounts; robotHash is bcrypt of the password, as htpasswd -nbB makes it.
const (
	robot         = "robot$team+puller"
	robotPassword = "secret"
	robotHash     = "$2y$04$.9Bcu8SIeDgjnbCFViG7hu1Cyf9eZIRH5YlJBlRVCNG8uliq0lPPK"
)

// privateRegistry is a registry with TLS and a password. Docker Engine verifies no certificates in 127.0.0.0/8, so it has other addresses.
type privateRegistry struct {
	address   string // HOST:PORT; the cluster has its CA
	untrusted string // an address at which it has the same certificate, and the cluster no CA
	asked     string // file with the last request to the credential provider
	flags     []string
}

// startPrivateRegistry starts it for a cluster whose state directory is dir, and prepares credentials on its node.
func startPrivateRegistry(t *testing.T, dir string) *privateRegistry {
	t.Helper()
	own := t.TempDir()
	hosts := []net.IP{net.IPv4(198, 18, 213, 1), net.IPv4(198, 18, 213, 2)}
	addAddresses(t, hosts)
	authority := mesoshttptest.NewAuthority(t)
	certificate, key := authority.Pair(hosts[0].String(), hosts[1].String())
	users := filepath.Join(own, "htpasswd")
	writeFile(t, users, robot+":"+robotHash+"\n")
	real, err := suite.StartRegistryFor(within(t, time.Minute), suite.RegistryAccess{
		Address: net.JoinHostPort(hosts[0].String(), "0"), CertFile: certificate, KeyFile: key, HtpasswdFile: users,
	}, program(t, "build/docker-registry"), own, filepath.Join(own, "registry.log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := real.Stop(); err != nil {
			t.Error(err)
		}
	})
	r := &privateRegistry{address: real.Address, asked: filepath.Join(own, "asked"), untrusted: serveTLS(t, hosts[1], certificate, key)}
	r.flags = append(r.provideCredentials(t, own), "--registry-ca="+r.address+"="+authority.File, "--image-rewrite=docker.io="+r.address+"/hub")
	node, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	kubelet := filepath.Join(dir, "nodes", "k8sm", strings.ToLower(node), "kubelet")
	if err := os.MkdirAll(kubelet, 0o700); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(kubelet, "config.json"), r.credentials("/hub", "/shared"))
	return r
}

// addAddresses adds addresses to a device of their own.
func addAddresses(t *testing.T, hosts []net.IP) {
	t.Helper()
	link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "kmreg0"}, PeerName: "kmreg1"}
	if err := netlink.LinkAdd(link); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netlink.LinkDel(link); err != nil {
			t.Error(err)
		}
	})
	for _, host := range hosts {
		if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: host, Mask: net.CIDRMask(32, 32)}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		t.Fatal(err)
	}
}

// serveTLS serves nothing, with the certificate, and returns the address.
func serveTLS(t *testing.T, host net.IP, certificate, key string) string {
	t.Helper()
	listener, err := net.Listen("tcp", net.JoinHostPort(host.String(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: listener, Config: &http.Server{Handler: http.NotFoundHandler()}, TLS: &tls.Config{Certificates: []tls.Certificate{pair}}}
	server.StartTLS()
	t.Cleanup(server.Close)
	return listener.Addr().String()
}

// provideCredentials writes a credential provider for one folder of the registry, and returns the flags that name it.
func (r *privateRegistry) provideCredentials(t *testing.T, dir string) []string {
	t.Helper()
	config := filepath.Join(dir, "providers.yaml")
	writeFile(t, config, fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
- name: give-robot
  apiVersion: credentialprovider.kubelet.k8s.io/v1
  matchImages: [%q]
  defaultCacheDuration: 0s
`, r.address+"/provided"))
	answer, err := json.Marshal(map[string]any{
		"apiVersion": "credentialprovider.kubelet.k8s.io/v1", "kind": "CredentialProviderResponse", "cacheKeyType": "Image",
		"auth": map[string]any{r.address: map[string]string{"username": robot, "password": robotPassword}},
	})
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "give-robot")
	writeFile(t, program, fmt.Sprintf("#!/bin/sh\nread -r request\necho \"$request\" >%s\necho '%s'\n", r.asked, answer))
	if err := os.Chmod(program, 0o700); err != nil {
		t.Fatal(err)
	}
	return []string{"--image-credential-provider-config=" + config, "--image-credential-provider-bin-dir=" + dir}
}

// credentials is a config.json for folders of the registry.
func (r *privateRegistry) credentials(folders ...string) string {
	auths := map[string]any{}
	for _, folder := range folders {
		auths[r.address+folder] = map[string]string{"username": robot, "password": robotPassword}
	}
	data, _ := json.Marshal(map[string]any{"auths": auths}) // strings can be encoded
	return string(data)
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// pushed is the image that is pushed. It is another one than that of the other tests' pods: kubelets refuse an image that came by a secret
// to pods without it, under all names.
const pushed = "k8sm.io/test/pushed:latest"

// push pushes an image under a name, by an Engine that trusts the registry because the minion told it to, and returns the
// digest. The Engine does not keep the name.
func (r *privateRegistry) push(t *testing.T, c *scratch.Cluster, name string) (digest string) {
	t.Helper()
	if err := c.Docker.ImageTag(t.Context(), pushed, name); err != nil {
		t.Fatal(err)
	}
	auth, err := dockerregistry.EncodeAuthConfig(dockerregistry.AuthConfig{Username: robot, Password: robotPassword})
	if err != nil {
		t.Fatal(err)
	}
	progress, err := c.Docker.ImagePush(t.Context(), name, dockerimage.PushOptions{RegistryAuth: auth})
	if err != nil {
		t.Fatal(err)
	}
	defer progress.Close()
	for decoder := json.NewDecoder(progress); decoder.More(); {
		var m jsonmessage.JSONMessage
		if err := decoder.Decode(&m); err != nil || m.Error != nil {
			t.Fatalf("cannot push %s: %v %v", name, err, m.Error)
		}
		var end struct{ Digest string }
		if m.Aux != nil && json.Unmarshal(*m.Aux, &end) == nil {
			digest = end.Digest
		}
	}
	if _, err := c.Docker.ImageRemove(t.Context(), name, dockerimage.RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	return digest
}

// pullingPod is a pod whose image always comes from a registry, by the secrets.
func pullingPod(name, from string, secrets ...string) *corev1.Pod {
	p := pod(name, forever)
	p.Spec.Containers[0].Image, p.Spec.Containers[0].ImagePullPolicy = from, corev1.PullAlways
	for _, secret := range secrets {
		p.Spec.ImagePullSecrets = append(p.Spec.ImagePullSecrets, corev1.LocalObjectReference{Name: secret})
	}
	return p
}

// pullFails runs a pod whose image does not come, and checks what the pod says.
func pullFails(t *testing.T, c *scratch.Cluster, p *corev1.Pod, want string) {
	t.Helper()
	p = create(t, c, p)
	err := scratch.Until(t.Context(), 90*time.Second, func(ctx context.Context) error {
		p, err := c.Kube.CoreV1().Pods("default").Get(ctx, p.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].State.Waiting != nil && strings.Contains(p.Status.ContainerStatuses[0].State.Waiting.Message, want) {
			return nil
		}
		return fmt.Errorf("pod %s does not say %q: %+v", p.Name, want, p.Status.ContainerStatuses)
	})
	if err != nil {
		t.Error(err)
	}
	remove(t, c, p)
}

func pullWorks(t *testing.T, c *scratch.Cluster, p *corev1.Pod) {
	t.Helper()
	p = create(t, c, p)
	awaitPhase(t, c, p.Name, corev1.PodRunning)
	remove(t, c, p)
}

// pulls runs pods with images from the registry. A pod must have run before: the minion makes the Engine trust the registry.
func (r *privateRegistry) pulls(t *testing.T, c *scratch.Cluster) {
	secret := func(name, password string) {
		auths, err := json.Marshal(map[string]any{"auths": map[string]any{"https://" + r.address: map[string]string{"username": robot, "password": password}}})
		if err != nil {
			t.Fatal(err)
		}
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Type: corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{corev1.DockerConfigJsonKey: auths}}
		if _, err := c.Kube.CoreV1().Secrets("default").Create(t.Context(), s, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	secret("right", robotPassword)
	secret("wrong", "guess")
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "puller"}, ImagePullSecrets: []corev1.LocalObjectReference{{Name: "right"}}}
	if _, err := c.Kube.CoreV1().ServiceAccounts("default").Create(t.Context(), account, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	if err := scratch.ImportImage(t.Context(), c.Docker, pushed, "/bin/busybox", busybox); err != nil {
		t.Fatal(err)
	}
	team := r.address + "/team/web:1"
	r.push(t, c, team)

	pullFails(t, c, pullingPod("untrusted", r.untrusted+"/team/web:1", "right"), "x509: certificate signed by unknown authority")
	pullFails(t, c, pullingPod("no-secret", team), "no basic auth credentials")
	pullFails(t, c, pullingPod("wrong-secret", team, "wrong"), "unauthorized")
	pullWorks(t, c, pullingPod("right-secret", team, "right"))
	ofAccount := pullingPod("of-account", team)
	ofAccount.Spec.ServiceAccountName = "puller"
	pullWorks(t, c, ofAccount)

	for _, folder := range []string{"/provided", "/shared"} {
		r.push(t, c, r.address+folder+"/web:1")
		pullWorks(t, c, pullingPod("node-wide"+strings.ReplaceAll(folder, "/", "-"), r.address+folder+"/web:1"))
	}
	asked, err := os.ReadFile(r.asked)
	if err != nil || !strings.Contains(string(asked), `"image":"`+r.address+`/provided/web"`) {
		t.Errorf("the credential provider was asked %s, %v", asked, err)
	}
}

// mirrors runs pods whose images are named as Docker Hub's and come from the registry, by the node's credentials.
func (r *privateRegistry) mirrors(t *testing.T, c *scratch.Cluster) {
	digest := r.push(t, c, r.address+"/hub/library/mirrored:1")
	pullWorks(t, c, pullingPod("mirrored", "mirrored:1"))
	if _, err := c.Docker.ImageInspect(t.Context(), "mirrored:1"); err != nil {
		t.Errorf("the image does not have its name: %v", err)
	}
	pullWorks(t, c, pullingPod("mirrored-digest", "docker.io/library/mirrored@"+digest))
	present := pullingPod("mirrored-present", "mirrored@"+digest)
	present.Spec.Containers[0].ImagePullPolicy = corev1.PullNever
	pullWorks(t, c, present)
	pullFails(t, c, pullingPod("not-mirrored", "mirrored:2"), "cannot pull mirrored:2 from "+r.address+"/hub/library/mirrored:2")
}

// forgotten checks that no node trusts the registry any more.
func (r *privateRegistry) forgotten(t *testing.T) {
	t.Helper()
	if _, err := os.Stat(filepath.Join("/etc/docker/certs.d", r.address)); !os.IsNotExist(err) {
		t.Errorf("the machine still has certificates for %s: %v", r.address, err)
	}
}
