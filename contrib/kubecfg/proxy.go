package kubecfg

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/kubectl/pkg/proxy"
)

// proxyAddress is where -proxy serves: programs of this machine only.
const proxyAddress = "127.0.0.1:8001"

// serveProxy passes requests on to the server, with its credentials, until ctx ends.
func (k *kubecfg) serveProxy(ctx context.Context) error {
	listener, err := net.Listen("tcp", proxyAddress)
	if err != nil {
		return sayf("Error creating proxy server: %v", err)
	}
	return k.serveProxyOn(ctx, listener)
}

// serveProxyOn does that on a listener, which it closes.
func (k *kubecfg) serveProxyOn(ctx context.Context, listener net.Listener) error {
	defer listener.Close()
	config, err := k.server()
	if err != nil {
		return err
	}
	handler, err := proxyHandler(config, k.www)
	if err != nil {
		return sayf("Error creating proxy server: %v", err)
	}
	server := http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	fmt.Fprintf(k.Out, "Starting to serve on %s\n", listener.Addr())
	if k.openBrowser {
		openBrowser("http://" + listener.Addr().String() + "/static/")
	}
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return sayf("Error serving the proxy: %v", err)
	}
	return nil
}

// proxyHandler serves the server's paths, and a directory's files below /static/ if it is given. It answers only requests to this
// machine, and none that a page of another server sends: they would have the credentials.
func proxyHandler(config *rest.Config, www string) (http.Handler, error) {
	mux := http.NewServeMux()
	api, err := proxy.NewProxyHandler("/", nil, config, 0, false)
	if err != nil {
		return nil, err
	}
	mux.Handle("/", api)
	if www != "" {
		if _, err := os.ReadDir(www); err != nil {
			return nil, err
		}
		mux.Handle("/static/", http.StripPrefix("/static/", http.FileServer(http.Dir(www))))
	}
	filter := &proxy.FilterServer{
		AcceptPaths: proxy.MakeRegexpArrayOrDie(proxy.DefaultPathAcceptRE),
		AcceptHosts: proxy.MakeRegexpArrayOrDie(proxy.DefaultHostAcceptRE),
	}
	return filter.HandlerFor(ownPages(mux)), nil
}

// ownPages refuses requests of pages that come from elsewhere.
func ownPages(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if origin := r.Header.Get("Origin"); origin != "" {
			from, err := url.Parse(origin)
			if err != nil || !strings.EqualFold(from.Host, r.Host) {
				http.Error(w, http.StatusText(http.StatusForbidden), http.StatusForbidden)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// openBrowser shows a page if there is a desktop. Otherwise there is nothing to tell: the address is printed already.
func openBrowser(page string) {
	if os.Getenv("DISPLAY") == "" && os.Getenv("WAYLAND_DISPLAY") == "" {
		return
	}
	show := exec.Command("xdg-open", page)
	if show.Start() == nil {
		go func() { _ = show.Wait() }()
	}
}
