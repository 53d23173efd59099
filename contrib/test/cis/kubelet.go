package cis

import (
	"context"
	"net"

	kubeletconfig "k8s.io/kubelet/config/v1beta1"
)

// kubelet are the items about kubelets and kube-proxies.
func kubelet() []item {
	return []item{
		{"4.2.1", "anonymous requests are refused", kubelets(func(c kubeletconfig.KubeletConfiguration) verdict {
			return when(c.Authentication.Anonymous.Enabled != nil && !*c.Authentication.Anonymous.Enabled, "authentication.anonymous.enabled=false")
		})},
		{"4.2.2", "authorization is not AlwaysAllow", kubelets(func(c kubeletconfig.KubeletConfiguration) verdict {
			return when(c.Authorization.Mode == kubeletconfig.KubeletAuthorizationModeWebhook, "authorization.mode=%s", c.Authorization.Mode)
		})},
		{"4.2.3", "CA of clients", kubelets(func(c kubeletconfig.KubeletConfiguration) verdict {
			return when(c.Authentication.X509.ClientCAFile != "", "clientCAFile=%s", c.Authentication.X509.ClientCAFile)
		})},
		{"4.2.4", "no read-only port", kubelets(func(c kubeletconfig.KubeletConfiguration) verdict {
			return when(c.ReadOnlyPort == 0, "readOnlyPort=%d", c.ReadOnlyPort)
		})},
		{"4.2.5", "idle streams end", kubelets(func(c kubeletconfig.KubeletConfiguration) verdict {
			limit := c.StreamingConnectionIdleTimeout.Duration
			return when(limit > 0, "streamingConnectionIdleTimeout=%s", limit)
		})},
		{"4.2.6", "the kubelet's own iptables chains", kubelets(func(c kubeletconfig.KubeletConfiguration) verdict {
			if c.MakeIPTablesUtilChains == nil || *c.MakeIPTablesUtilChains {
				return pass("makeIPTablesUtilChains=true")
			}
			return cannot("the chains guard 127.0.0.0/8 of nodes whose kube-proxy opens it; ours does not, and the minion would have to remove what the kubelet leaves behind")
		})},
		{"4.2.7", "no other host name", func(_ context.Context, s *seen) verdict {
			for _, k := range s.kubelets {
				if k.args["hostname-override"] != "" {
					return cannot("a node is named after its Mesos agent, which may have another host name than the machine")
				}
			}
			return pass("--hostname-override is not set")
		}},
		{"4.2.8", "events are recorded", kubelets(func(c kubeletconfig.KubeletConfiguration) verdict {
			return when(c.EventRecordQPS != nil && *c.EventRecordQPS >= 0, "eventRecordQPS is %v", value(c.EventRecordQPS))
		})},
		{"4.2.9", "serving certificate", kubelets(func(c kubeletconfig.KubeletConfiguration) verdict {
			return when(c.ServerTLSBootstrap || c.TLSCertFile != "" && c.TLSPrivateKeyFile != "", "serverTLSBootstrap=%t", c.ServerTLSBootstrap)
		})},
		{"4.2.10", "client certificates are renewed", kubelets(func(c kubeletconfig.KubeletConfiguration) verdict {
			return when(c.RotateCertificates, "rotateCertificates=%t", c.RotateCertificates)
		})},
		{"4.2.11", "serving certificates are renewed", kubelets(func(c kubeletconfig.KubeletConfiguration) verdict {
			on, set := c.FeatureGates["RotateKubeletServerCertificate"]
			return when(c.ServerTLSBootstrap && (on || !set), "serverTLSBootstrap=%t, and the feature gate is not off", c.ServerTLSBootstrap)
		})},
		{"4.2.12", "strong ciphers", kubelets(func(c kubeletconfig.KubeletConfiguration) verdict { return strong(c.TLSCipherSuites) })},
		{"4.2.13", "limit of processes of a pod", kubelets(func(c kubeletconfig.KubeletConfiguration) verdict {
			return when(c.PodPidsLimit != nil && *c.PodPidsLimit > 0, "podPidsLimit is %v", value(c.PodPidsLimit))
		})},
		{"4.3.1", "kube-proxy's metrics are on loopback", func(_ context.Context, s *seen) verdict {
			for _, p := range s.proxies {
				host, _, err := net.SplitHostPort(p.MetricsBindAddress)
				if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
					return fail("metricsBindAddress=%s", p.MetricsBindAddress)
				}
			}
			return pass("metricsBindAddress=%s", s.proxies[0].MetricsBindAddress)
		}},
	}
}

// kubelets checks each kubelet. The verdict is that of the last, or of the first that does not pass.
func kubelets(check func(kubeletconfig.KubeletConfiguration) verdict) func(context.Context, *seen) verdict {
	return func(_ context.Context, s *seen) (v verdict) {
		for _, k := range s.kubelets {
			if v = check(k.config); v.result != Passed {
				return v
			}
		}
		return v
	}
}

// when passes if ok, and fails otherwise; the reason is what was seen.
func when(ok bool, format string, args ...any) verdict {
	if ok {
		return pass(format, args...)
	}
	return fail(format, args...)
}

// value is what a pointer points to, for a message.
func value[T any](p *T) any {
	if p == nil {
		return "not set"
	}
	return *p
}
