// Package ui serves the web page of a cluster. It shows what Kubernetes runs and what Mesos gives to it, and does what kubectl is used
// for every day.
//
// The server has no rights of its own: it sends each request to the API server with the caller's identity. A caller logs in with a
// one-time key, a pasted token, or OpenID Connect; the credential stays in the server's memory, behind a cookie. The scheduler gets the
// caller's identity, too, and decides what the caller may see of Mesos.
//
//	/                   the page, for every path that is not below
//	/assets/            its scripts and style sheets
//	/auth/              log in and out
//	/api/session        who the caller is, and what this server allows
//	/api/k8s/…          the API server, but for its proxy subresources
//	/api/watch          one WebSocket for all that a page follows: lists as tables, objects, logs
//	/api/mesos/…        the scheduler's status
//
// The page's code is in web, with tests of its functions, which TestPage runs in a browser; bundle makes assets of it. Start reading at
// Server.handler. The package must not import k8s.io/kubernetes.
package ui
