// Package wire knows how Mesos v1 API messages look in an HTTP body: protobuf, the JSON that a current Mesos master
// reads and writes, and RecordIO for streams. The messages themselves are mesos-go's generated types, but not their
// generated JSON: that one fails on values newer than the types (the master capability QUOTA_V2) and writes empty
// fields that Mesos leaves out.
//
// It knows nothing of masters, agents and HTTP. Start reading at Codec.
//
// It follows https://mesos.apache.org/documentation/latest/scheduler-http-api/ ("Calls", "Events", "RecordIO").
package wire
