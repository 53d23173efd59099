// Package webpage tests the web page (contrib/ui) in Chromium on a real control plane. It has only tests.
//
// etcd, the API server and the controllers are those of km apiserver, which a test can stop and kill. Pods have no kubelet: the tests
// write their states. The scheduler's status server is the real one; what it shows of Mesos are values of the tests. What needs pods
// that run, such as a shell, is tested in contrib/test/e2e.
//
// Start reading at TestWebPage. The page is that of contrib/ui/embedded, which make builds, as it does km.
package webpage
