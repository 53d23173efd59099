package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	images "github.com/docker/docker/api/types/image"
	"golang.org/x/crypto/bcrypt"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	certutil "k8s.io/client-go/util/cert"

	"github.com/k8sm/k8sm/api/commit"
	"github.com/k8sm/k8sm/contrib/test/scratch"
	"github.com/k8sm/k8sm/contrib/test/suite"
)

// shop has what images and files are sent to: a registry with TLS and a password, which all nodes reach, and an FTP server.
type shop struct {
	registry string // HOST:PORT
	access   suite.RegistryAccess
	dir      string // of all files
	running  *suite.Registry
	ftp      *exec.Cmd
	ftpPort  int
}

const shopPassword = "a-password-of-the-registry"

func openShop(t *testing.T, c *scratch.Cluster) *shop {
	t.Helper()
	api, err := url.Parse(c.REST.Host)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s := &shop{registry: net.JoinHostPort(api.Hostname(), fmt.Sprint(freePort(t))), dir: dir, ftpPort: freePort(t)}
	cert, key, err := certutil.GenerateSelfSignedCertKey(api.Hostname(), []net.IP{net.ParseIP(api.Hostname())}, nil)
	hash, hashErr := bcrypt.GenerateFromPassword([]byte(shopPassword), bcrypt.MinCost)
	if err := errors.Join(err, hashErr); err != nil {
		t.Fatal(err)
	}
	write := func(name string, text []byte) string {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, text, 0o600)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	s.access = suite.RegistryAccess{
		Address: s.registry, CertFile: write("registry.crt", cert), KeyFile: write("registry.key", key),
		HtpasswdFile: write("htpasswd", fmt.Appendf(nil, "shop:%s\n", hash)),
	}
	write("ftp-password", []byte(shopPassword))
	trusted := filepath.Join("/etc/docker/certs.d", s.registry) // where Docker Engines look
	t.Cleanup(func() { _ = os.RemoveAll(trusted) })
	if err := errors.Join(os.MkdirAll(trusted, 0o755), os.WriteFile(filepath.Join(trusted, "ca.crt"), cert, 0o644)); err != nil {
		t.Fatal(err)
	}
	s.startRegistry(t)
	s.startFTP(t)
	t.Cleanup(func() { s.stopRegistry(t); s.stopFTP() })
	login, err := json.Marshal(map[string]any{"auths": map[string]any{s.registry: map[string]string{"username": "shop", "password": shopPassword}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"registry", "other"} {
		_, err = c.Kube.CoreV1().Secrets("default").Create(t.Context(), &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Type: corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{corev1.DockerConfigJsonKey: login},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func (s *shop) startRegistry(t *testing.T) {
	t.Helper()
	var err error
	if s.running, err = suite.StartRegistryFor(t.Context(), s.access, program(t, "build/docker-registry"), s.dir, filepath.Join(s.dir, "registry.log")); err != nil {
		t.Fatal(err)
	}
}

func (s *shop) stopRegistry(t *testing.T) {
	t.Helper()
	if s.running == nil {
		return
	}
	if err := s.running.Stop(); err != nil {
		t.Error(err)
	}
	s.running = nil
}

// files is the directory of the FTP server.
func (s *shop) files() string { return filepath.Join(s.dir, "ftp") }

func (s *shop) startFTP(t *testing.T) {
	t.Helper()
	if err := os.MkdirAll(s.files(), 0o700); err != nil {
		t.Fatal(err)
	}
	s.ftp = exec.Command("/usr/bin/python3", "-m", "pyftpdlib", "-i", "127.0.0.1", "-p", fmt.Sprint(s.ftpPort), "-u", "shop", "-P", shopPassword, "-w", "-d", s.files())
	s.ftp.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.ftp.Start(); err != nil {
		t.Fatalf("%v; run make test-deps first", err)
	}
	err := scratch.Until(t.Context(), 20*time.Second, func(ctx context.Context) error {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", s.ftpPort))
		if err == nil {
			err = conn.Close()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (s *shop) stopFTP() {
	_ = s.ftp.Process.Kill()
	_ = s.ftp.Wait()
}

// takeOver is the command that takes the component over.
func (s *shop) takeOver() []string {
	return []string{
		"commit", "rc/web", "--registry", s.registry, "--app=shop", "--component=web", "--tag=monday", "--dir", filepath.Join(s.dir, "own"), "--takeover",
		"--ftp", fmt.Sprintf("ftp://shop@127.0.0.1:%d", s.ftpPort), "--ftp-password-file", filepath.Join(s.dir, "ftp-password"),
	}
}

// kmUntil runs km until it prints a line that begins with a word, and calls do then. It returns what km printed, and how it ended.
func kmUntil(t *testing.T, c *scratch.Cluster, word string, do func(*exec.Cmd), args ...string) (string, error) {
	t.Helper()
	cmd := c.KM(within(t, 3*time.Minute), args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var errs strings.Builder
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	met := false
	for lines := bufio.NewScanner(out); lines.Scan(); {
		text.WriteString(lines.Text() + "\n")
		if !met && word != "" && strings.Contains(lines.Text(), word) {
			met = true
			do(cmd)
		}
	}
	err = cmd.Wait()
	if word != "" && !met {
		t.Errorf("km %v printed no line with %q: %v\n%s%s", args, word, err, &text, &errs)
	}
	return text.String() + errs.String(), err
}

// commits tests km commit with one component of two pods.
func commits(t *testing.T, c *scratch.Cluster) {
	s := openShop(t, c)
	objects, err := dynamic.NewForConfig(c.REST)
	if err != nil {
		t.Fatal(err)
	}
	pods := runComponent(t, c)
	t.Run("one container is committed with a Secret of its own", func(t *testing.T) { commitsOne(t, c, s, objects, pods[0]) })
	t.Run("a commit goes on when what it needs is killed", func(t *testing.T) { commitGoesOn(t, c, s, pods) })
	t.Run("a take-over that is killed after each step goes on", func(t *testing.T) { takeOverGoesOn(t, c, s, objects, pods) })
	t.Run("the files bring the pods back", func(t *testing.T) { filesBringPodsBack(t, c, s, pods) })
	for _, name := range []string{"registry", "other"} {
		if err := c.Kube.CoreV1().Secrets("default").Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	}
}

// runComponent runs a ReplicationController of two pods with addresses, on different nodes, and returns them by address.
func runComponent(t *testing.T, c *scratch.Cluster) []corev1.Pod {
	t.Helper()
	two := int32(2)
	template := pooled("web", "", "")
	template.Spec.NodeSelector = nil
	template.Annotations["k8sm.io/ip-pool"] = "shop"
	template.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "registry"}}
	main := &template.Spec.Containers[0]
	main.Command = []string{"/bin/busybox", "sh", "-c", "[ -e /made ] || { /bin/busybox dd if=/dev/urandom of=/big bs=1M count=20 2>/dev/null; echo $POD >/made; }; " + forever}
	main.Env = []corev1.EnvVar{
		{Name: "POD", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}},
		{Name: "PASSWORD", Value: "a-password-of-the-pod"},
	}
	main.ReadinessProbe = &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"/bin/busybox", "test", "-e", "/made"}}}}
	template.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
		MaxSkew: 1, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
	}}
	template.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse("50m")
	_, err := c.Kube.CoreV1().ReplicationControllers("default").Create(t.Context(), &corev1.ReplicationController{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: corev1.ReplicationControllerSpec{
			Replicas: &two, Selector: map[string]string{"app": "web"},
			Template: &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: template.Labels, Annotations: template.Annotations}, Spec: template.Spec},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return componentIsReady(t, c)
}

// componentIsReady waits until both pods are, and returns them by address.
func componentIsReady(t *testing.T, c *scratch.Cluster) (pods []corev1.Pod) {
	t.Helper()
	err := scratch.Until(t.Context(), 90*time.Second, func(ctx context.Context) error {
		list, err := c.Kube.CoreV1().Pods("default").List(ctx, metav1.ListOptions{LabelSelector: "app=web"})
		if err != nil {
			return err
		}
		pods = list.Items
		for _, p := range pods {
			if !slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue }) || p.DeletionTimestamp != nil {
				return fmt.Errorf("pod %s is not ready: %+v", p.Name, p.Status)
			}
		}
		if len(pods) != 2 {
			return fmt.Errorf("there are %d pods", len(pods))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(pods, func(a, b corev1.Pod) int { return strings.Compare(a.Status.PodIP, b.Status.PodIP) })
	return pods
}

// nothingLeft sees that commits have left nothing on the nodes, and all containers run.
func nothingLeft(t *testing.T, c *scratch.Cluster) {
	t.Helper()
	err := scratch.Until(t.Context(), 60*time.Second, func(ctx context.Context) error {
		for node, docker := range c.Engines {
			left, err := docker.ImageList(ctx, images.ListOptions{Filters: filters.NewArgs(filters.Arg("reference", "k8sm.io/commit/*"))})
			if err == nil && len(left) > 0 {
				err = fmt.Errorf("node %s has %d images of commits", node, len(left))
			}
			if err != nil {
				return err
			}
			paused, err := docker.ContainerList(ctx, container.ListOptions{Filters: filters.NewArgs(filters.Arg("status", "paused"))})
			if err == nil && len(paused) > 0 {
				err = fmt.Errorf("node %s has paused containers: %v", node, paused[0].Names)
			}
			if err != nil {
				return err
			}
		}
		roles, err := c.Kube.RbacV1().Roles("default").List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, role := range roles.Items {
			if strings.HasPrefix(role.Name, "k8sm-commit:") { // metrics have one, too
				return fmt.Errorf("there is a Role %s", role.Name)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func commitsOne(t *testing.T, c *scratch.Cluster, s *shop, objects dynamic.Interface, p corev1.Pod) {
	name := s.registry + "/one:1"
	out, err := c.KM(within(t, 2*time.Minute), "commit", "pod/"+p.Name, name, "--push-secret=other").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "pushed "+name+"@sha256:") {
		t.Fatalf("%v: %s", err, out)
	}
	nothingLeft(t, c)
	out, err = c.KM(within(t, 30*time.Second), "kubectl", "get", "commits").CombinedOutput()
	if text := string(out); err != nil || !containsAll(text, []string{"NAME", "IMAGE", "PHASE", "IP", "MESSAGE", "AGE", p.Name + ".main", name, "Succeeded", "paused for"}) {
		t.Errorf("%v: %s", err, out)
	}
	err = scratch.Until(t.Context(), 30*time.Second, func(ctx context.Context) error {
		events, err := c.Kube.CoreV1().Events("default").List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + p.Name})
		if err == nil && !slices.ContainsFunc(events.Items, func(e corev1.Event) bool { return e.Reason == "Committed" && strings.Contains(e.Message, name) }) {
			err = fmt.Errorf("no event of the pod says that it was committed: %+v", events.Items)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	out, err = c.KM(within(t, time.Minute), "commit", "pod/"+p.Name, "127.0.0.1:1/one:1", "--timeout=3s").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "the images are not there after 3s") {
		t.Errorf("%v: %s", err, out)
	}
	if err := objects.Resource(commit.Resource).Namespace("default").Delete(t.Context(), commit.Name(p.Name, "main"), metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
	nothingLeft(t, c)
}

func commitGoesOn(t *testing.T, c *scratch.Cluster, s *shop, pods []corev1.Pod) {
	for i, victim := range []string{"minion", "dockerd", "registry"} {
		name := fmt.Sprintf("%s/goes-on:%s", s.registry, victim)
		out, err := kmUntil(t, c, "committing", func(*exec.Cmd) {
			time.Sleep(rand.N(300 * time.Millisecond)) // at any moment: making the image takes about as long
			switch victim {
			case "minion":
				kill(t, c, victim)
			case "dockerd":
				killEngines(t, c)
			case "registry":
				s.stopRegistry(t)
				s.startRegistry(t)
			}
		}, "commit", "pod/"+pods[i%2].Name, name)
		if err != nil || !strings.Contains(out, "pushed "+name) {
			t.Errorf("after the %s was killed: %v: %s", victim, err, out)
		}
		nothingLeft(t, c)
	}
	now := componentIsReady(t, c)
	for i := range pods {
		if now[i].UID != pods[i].UID || now[i].Status.ContainerStatuses[0].RestartCount != 0 {
			t.Errorf("pod %s was restarted: %+v", pods[i].Name, now[i].Status)
		}
	}
}

// killEngines kills all Docker Engines, and starts them again as a machine's init does. km up finds them by their pid files.
func killEngines(t *testing.T, c *scratch.Cluster) {
	t.Helper()
	processes, err := c.Processes()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range processes {
		if p.Role != "dockerd" {
			continue
		}
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.PID))
		network, networkErr := os.Open(fmt.Sprintf("/proc/%d/ns/net", p.PID))
		if err := errors.Join(err, networkErr, syscall.Kill(p.PID, syscall.SIGKILL)); err != nil {
			t.Fatal(err)
		}
		command := strings.Split(strings.TrimRight(string(text), "\x00"), "\x00")
		again := exec.Command("nsenter", append([]string{"--net=/proc/self/fd/3"}, command...)...)
		again.ExtraFiles = []*os.File{network}
		again.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := errors.Join(again.Start(), network.Close()); err != nil {
			t.Fatal(err)
		}
		go func() { _ = again.Wait() }()
		dir := filepath.Dir(command[slices.Index(command, "--config-file")+1])
		if err := os.WriteFile(filepath.Join(dir, "dockerd.pid"), fmt.Appendln(nil, again.Process.Pid), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func takeOverGoesOn(t *testing.T, c *scratch.Cluster, s *shop, objects dynamic.Interface, pods []corev1.Pod) {
	for _, step := range []string{"checked:", "committing", "pushed", "recorded", "wrote", "uploaded", "labeled", "saved"} {
		do := func(cmd *exec.Cmd) { _ = cmd.Process.Kill() }
		if step == "wrote" {
			do = func(*exec.Cmd) { s.stopFTP() }
		}
		out, err := kmUntil(t, c, step, do, s.takeOver()...)
		if err == nil {
			t.Errorf("it was killed after %q, and did not fail: %s", step, out)
		}
		if step == "wrote" {
			if !strings.Contains(out, "cannot upload") {
				t.Errorf("without an FTP server it says %s", out)
			}
			s.startFTP(t)
		}
	}
	failsForGood(t, c, s, pods)
	for _, step := range []string{"deleted", "created"} {
		if out, err := kmUntil(t, c, step, func(cmd *exec.Cmd) { _ = cmd.Process.Kill() }, s.takeOver()...); err == nil {
			t.Errorf("it was killed after %q, and did not fail: %s", step, out)
		}
	}
	for _, want := range []string{"has taken pod/", "nothing to do"} { // the second time, all is done
		out, err := c.KM(within(t, 3*time.Minute), s.takeOver()...).CombinedOutput()
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("want %q: %v: %s", want, err, out)
		}
	}
	takenOverWholly(t, c, s, objects, pods)
}

// failsForGood lets a quota allow one ReplicationController once the old one is gone: the old one comes back.
func failsForGood(t *testing.T, c *scratch.Cluster, s *shop, pods []corev1.Pod) {
	t.Helper()
	if out, err := kmUntil(t, c, "deleted", func(cmd *exec.Cmd) { _ = cmd.Process.Kill() }, s.takeOver()...); err == nil {
		t.Errorf("it was killed, and did not fail: %s", out)
	}
	const kind = "count/replicationcontrollers"
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "one"}, Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{kind: resource.MustParse("1")}}}
	quotas := c.Kube.CoreV1().ResourceQuotas("default")
	if _, err := quotas.Create(t.Context(), quota, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	err := scratch.Until(t.Context(), 30*time.Second, func(ctx context.Context) error {
		q, err := quotas.Get(ctx, "one", metav1.GetOptions{})
		if err == nil && q.Status.Hard.Name(kind, resource.DecimalSI).Value() != 1 {
			err = errors.New("the quota is not in force")
		}
		if used := q.Status.Used[kind]; err == nil && used.Value() > 1 {
			err = fmt.Errorf("%s are used", used.String())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.KM(within(t, 3*time.Minute), s.takeOver()...).CombinedOutput()
	if err == nil || !containsAll(string(out), []string{"exceeded quota", "made rc/web again"}) {
		t.Errorf("%v: %s", err, out)
	}
	if err := quotas.Delete(t.Context(), "one", metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
	owned(t, c, pods, func(corev1.Pod) string { return "web" })
}

// owned waits until the pods, still the same, have these controllers, and those have no others.
func owned(t *testing.T, c *scratch.Cluster, pods []corev1.Pod, by func(corev1.Pod) string) {
	t.Helper()
	err := scratch.Until(t.Context(), 60*time.Second, func(ctx context.Context) error {
		now := componentIsReady(t, c)
		for i, p := range pods {
			owner := metav1.GetControllerOf(&now[i])
			if now[i].UID != p.UID || now[i].Status.ContainerStatuses[0].RestartCount != 0 || owner == nil || owner.Name != by(p) {
				return fmt.Errorf("pod %s is %s of %v", p.Name, now[i].Name, owner)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func takenOverWholly(t *testing.T, c *scratch.Cluster, s *shop, objects dynamic.Interface, pods []corev1.Pod) {
	t.Helper()
	owned(t, c, pods, func(p corev1.Pod) string { return "shop-web-" + p.Status.PodIP })
	controllers, err := c.Kube.CoreV1().ReplicationControllers("default").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(controllers.Items) != 2 {
		t.Errorf("there are %d ReplicationControllers, %v", len(controllers.Items), err)
	}
	recorded, err := c.KM(within(t, 30*time.Second), "etcdctl", "get", "--prefix", "/commiter/ips").CombinedOutput()
	if err != nil {
		t.Errorf("%v: %s", err, recorded)
	}
	for _, p := range componentIsReady(t, c) {
		name := "shop-web-" + p.Status.PodIP
		if p.Labels["IP"] != p.Status.PodIP || !strings.Contains(string(recorded), "/commiter/ips/"+name+":monday\n"+p.Status.PodIP+"\n") {
			t.Errorf("pod %s has the labels %v, etcd has\n%s", p.Name, p.Labels, recorded)
		}
		own, err := os.ReadFile(filepath.Join(s.dir, "own", name+".yaml"))
		there, ftpErr := os.ReadFile(filepath.Join(s.files(), "shop", "web", name+".yaml"))
		if err := errors.Join(err, ftpErr); err != nil || string(own) != string(there) || !strings.Contains(string(own), s.registry+"/"+name+":monday") {
			t.Errorf("%v: the file is\n%sand the uploaded one\n%s", err, own, there)
		}
	}
	for dir, want := range map[string]int{filepath.Join(s.dir, "own"): 3, filepath.Join(s.files(), "shop", "web"): 3} {
		if files, err := os.ReadDir(dir); err != nil || len(files) != want {
			t.Errorf("%s has %v, %v", dir, files, err)
		}
	}
	list, err := objects.Resource(commit.Resource).Namespace("default").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) != 2 {
		t.Errorf("there are %d Commits, %v", len(list.Items), err)
	}
	nothingLeft(t, c)
}

// filesBringPodsBack deletes the component and makes it again from the uploaded files.
func filesBringPodsBack(t *testing.T, c *scratch.Cluster, s *shop, pods []corev1.Pod) {
	for _, args := range [][]string{
		{"delete", "rc", "--selector=IP", "--wait"}, {"wait", "--for=delete", "pod", "--selector=app=web", "--timeout=60s"},
		{"create", "--filename", filepath.Join(s.files(), "shop", "web")},
	} {
		if out, err := c.KM(within(t, 90*time.Second), append([]string{"kubectl"}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("kubectl %v: %v: %s", args, err, out)
		}
	}
	for i, p := range componentIsReady(t, c) {
		if p.Status.PodIP != pods[i].Status.PodIP || p.UID == pods[i].UID {
			t.Errorf("pod %s has the address %s, want %s", p.Name, p.Status.PodIP, pods[i].Status.PodIP)
		}
		out, err := c.KM(within(t, 30*time.Second), "kubectl", "exec", p.Name, "--", "/bin/busybox", "cat", "/made").CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != pods[i].Name {
			t.Errorf("it has the files of %s, want those of pod %s: %v", out, pods[i].Name, err)
		}
	}
	if out, err := c.KM(within(t, 90*time.Second), "kubectl", "delete", "rc", "--selector=IP").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if out, err := c.KM(within(t, 90*time.Second), "kubectl", "wait", "--for=delete", "pod", "--selector=app=web", "--timeout=60s").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
