// Package mesoshttp is what k8sm's Mesos clients, the scheduler's and the executor's, share below the calls: TLS as Mesos masters
// and agents implement it, and a codec for the large events of large clusters and the broken ones of broken servers. It knows no call and no event. Start reading at
// TLS.Dial.
package mesoshttp
