package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"syscall"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/kubernetes/cmd/kube-scheduler/app"
)

// stockVariable has the flags of the stock kube-scheduler as JSON, in the process that plays it.
const stockVariable = "K8SM_BENCH_KUBE_SCHEDULER"

// playKubeScheduler is the stock command.
func playKubeScheduler(text string) error {
	var flags []string
	if err := json.Unmarshal([]byte(text), &flags); err != nil {
		return err
	}
	fmt.Println("started") // as roles do; /readyz tells more
	command := app.NewSchedulerCommand()
	command.SetArgs(flags)
	return command.Execute()
}

// stockOnHollow is the stock kube-scheduler as users run it, but without its limit of 50 calls a second, on plain nodes.
type stockOnHollow struct {
	*hollow
	at        string
	scheduler *program // nil while it is paused
}

func (s *stockOnHollow) start(ctx context.Context) error {
	if err := s.makeNodes(ctx); err != nil {
		return err
	}
	return s.resume(ctx)
}

// resume starts the scheduler, and returns when its cache is filled.
func (s *stockOnHollow) resume(ctx context.Context) (err error) {
	if s.at, err = freeAddress(); err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(s.at)
	if err != nil {
		return err
	}
	admin := s.dir.AdminKubeconfig()
	own, err := s.kubeconfig()
	if err != nil {
		return err
	}
	text, err := json.Marshal([]string{
		"--kubeconfig=" + own, "--authentication-kubeconfig=" + admin, "--authorization-kubeconfig=" + admin,
		"--bind-address=" + host, "--secure-port=" + port, "--kube-api-qps=-1",
	})
	if err != nil {
		return err
	}
	if s.scheduler, _, err = startRole(s.log, stockVariable, string(text)); err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} //nolint:gosec // it signs its own certificate
	poll(ctx, func() bool { return s.scheduler.ended() || ready(ctx, client, "https://"+s.at) })
	if s.scheduler.ended() || ctx.Err() != nil {
		return errors.New("kube-scheduler did not become ready in time")
	}
	return nil
}

// kubeconfig writes that of the stock kube-scheduler's user: what an administrator may do costs the API server less to find out.
func (s *stockOnHollow) kubeconfig() (file string, err error) {
	cert, key, err := s.identity("system:kube-scheduler")
	if err != nil {
		return "", err
	}
	config, err := clientcmd.LoadFromFile(s.dir.AdminKubeconfig())
	if err != nil {
		return "", err
	}
	for _, user := range config.AuthInfos {
		*user = clientcmdapi.AuthInfo{ClientCertificateData: cert, ClientKeyData: key}
	}
	file = filepath.Join(string(s.dir), "kube-scheduler.kubeconfig")
	return file, clientcmd.WriteToFile(*config, file)
}

// ready asks a server whether it is.
func ready(ctx context.Context, client *http.Client, url string) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/readyz", nil)
	if err != nil {
		return false
	}
	response, err := client.Do(request)
	if err != nil {
		return false
	}
	return response.StatusCode == http.StatusOK && response.Body.Close() == nil
}

func (s *stockOnHollow) pause() error {
	if s.scheduler == nil {
		return nil
	}
	err := s.scheduler.end(syscall.SIGTERM)
	s.scheduler = nil
	return err
}

func (s *stockOnHollow) stop() error { return s.pause() }

func (s *stockOnHollow) processes() map[string]int {
	return map[string]int{"scheduler": s.scheduler.pid()}
}

func (s *stockOnHollow) address() string { return "https://" + s.at }
