// Package logs is the protocol by which a minion ships what containers wrote to the cluster's log store, each line exactly once. It
// has the documents that both sides exchange and the format of a batch; it does no I/O.
//
// # Who speaks
//
// The minion is the client, by HTTPS, with its node's client certificate. The store takes the node's name from the certificate and
// from nowhere else, and stores it with each entry. It checks that each pod is, or was, on that node.
//
// # Where the stores are
//
// The stores are the servers of api.LogsMembership, a Service without a selector: each has an EndpointSlice with its address and port.
// The minion connects to these, and checks that the store's certificate is of the cluster's CA and has the name ServerName.
//
// A cluster with several control planes has several stores. Each minion ships everything to each of them, with positions of their own.
// So any one store can answer any query, a lost disk loses nothing, and no store has to know of another one. A store that was away gets
// what it lacks, as long as the node keeps it, and is behind meanwhile. It costs each node the sending, and each store the disk, as often
// as there are stores. The alternative, to split the nodes between the stores, costs less, but has queries wait for all stores, and leaves
// them with holes when one is away.
//
// A store is known by the value of its label api.LabelLogsServer, whatever its address is. A minion forgets a store, and what it keeps
// for it, when it has not been in the service for ForgetAfter while another one was. A store that returns later gets what is there then.
//
// # Sessions
//
// A session is one run of sending without doubts. The minion opens one when it starts, and a new one whenever the store does not
// know the old one (409). The store keeps sessions in memory only, so its restart ends them all. Each node has at most one: opening a
// session ends the node's earlier one, and the store takes no batch of an ended session, not even one that it is just reading. So
// what a request that was lost in the network carried is either in the store when the new session opens, or never will be.
//
//	POST {PathSessions}                     opens a session: answers a Session
//	POST {PathSessions}/ID/batches/N        sends batch N of the session, from 1 on: answers a Receipt
//	GET  {PathSessions}/ID                  answers a Receipt, without sending anything
//	POST {PathSessions}/ID/held             sends Questions: answers Answers
//
// Batches of a session are sent one after the other. The store takes batch N only after batch N-1. If it has batch N already, it takes
// nothing and answers as it did before: the minion repeats a batch, byte for byte, for which it got no answer.
//
// # On disk
//
// That the store has taken a batch means that it will be found by the next Questions, not that it is on disk. Receipt.Durable says up to
// which batch everything is on disk and survives a power failure. The minion keeps the files, and commits its positions, by Durable alone.
// It asks with GET while it has nothing to send. Durable must follow within seconds, or the minion stops sending after MaxUndurable batches.
//
// # What the store holds
//
// With a new session, the minion does not know which of the entries that it sent since its last commit survived. It asks for each file
// that has bytes beyond the commit. The store answers with the ranges of bytes that its entries cover; the minion sends the rest. Before
// it answers, the store waits until all that it has taken from the node is on disk: the minion takes what is held for durable. An entry
// covers the bytes from Offset to End, without its Holes. Ranges that touch are answered as one.
//
// # A batch
//
// The body of a batch is lines of JSON, compressed by gzip (Content-Type application/x-ndjson, Content-Encoding gzip). A line
// {"source":{…}} says where the entries after it come from: a Source. The first line is one. Every other line is an Entry:
//
//	{"source":{"namespace":"shop","pod":"web-0","uid":"8f0c…","container":"app","restart":1,"file":"1a2b-0123456789abcdef","number":3}}
//	{"time":1767323045000000006,"stream":"stdout","offset":180,"end":224,"message":"hello"}
//	{"time":1767323045000000009,"stream":"stderr","offset":224,"end":262,"base64":"/w=="}
//
// The message is what the container wrote, byte for byte, without the newline at its end. A message that is no valid UTF-8 comes as
// base64. The store keeps exactly these bytes as the message. It never parses them: what looks like JSON in there must not become
// fields, or a pod could forge lines of another one.
//
// Lines that a minion joined, because an annotation of the pod says so, have newlines in the message. A line that is longer than
// Session.MaxMessage, or that goes on in another file, comes as several entries. All of them but the last have More: whoever reads
// joins the message with that of the next entry of the same container, restart and stream, without a newline.
//
// # Components
//
// The components of a node have logs too. Their Source has the component's name as the container, such as "kubelet", and neither a
// namespace nor a pod nor a UID. The store takes NodeComponents from every node, and shows them to administrators only. Each line is a message as
// it stands in the file. It has the time that stands in it, or that of the line before.
//
// # Time and order
//
// Times are the container runtime's, and clocks jump. The order in which a container's lines were written is that of restart, number
// and offset. Numbers may leave gaps. The store keeps an entry whatever its time is. If it cannot keep such a time, it keeps the entry
// with the nearest time that it can keep.
//
// # Losses
//
// The minion drops lines only if the store was away for so long that the node's disk cannot keep more. It says so by an entry with Lost
// in their place, which covers their bytes. It has no message.
//
// The store may take a batch without the entries of some sources: it answers Receipt.Refused for those that it will never take, such as
// those of a pod on another node; the minion counts them as lost. It answers Receipt.Deferred for those that it cannot judge yet; the
// minion sends them again later.
//
// # Status codes
//
//	200  as above
//	400  the request breaks this protocol; nothing was taken
//	401  the client has no certificate of a node
//	403  the node may not send logs
//	409  the session has ended, or the batch is not its next one: open a session
//	413  the batch is larger than Session.MaxBatch; nothing was taken
//	429  too many requests: send the same again, after Retry-After if that is there; nothing was taken
//	503  the store cannot take anything now, such as with a full disk: as 429
//
// A body that is not answered with 200 has a line of text for people. The minion sends a request again after any other failure, with
// growing pauses.
//
// Start reading at Writer and Read: a batch, and Receipt: what became of it.
package logs
