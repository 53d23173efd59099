// Package mesoshttp is what k8sm's clients of Mesos, the scheduler's and the executor's, share below the calls: TLS as
// Mesos masters and agents speak it, and a codec with room for the events of large clusters. It knows no call and no
// event. Start reading at TLS.Dial.
package mesoshttp
