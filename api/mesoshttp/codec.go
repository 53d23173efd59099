package mesoshttp

import (
	"github.com/mesos/mesos-go/api/v1/lib/encoding"
	"github.com/mesos/mesos-go/api/v1/lib/encoding/codecs"
	"github.com/mesos/mesos-go/api/v1/lib/encoding/framing"
	"github.com/mesos/mesos-go/api/v1/lib/encoding/proto"
)

// MaxEvent is the largest event that is read, in bytes. A master sends all offers of an allocation in one event
// (Master::offer in src/master/master.cpp), about 600 bytes for each agent and 1,000 for one with a dozen attributes, so
// this is enough for 250,000 agents. The buffer grows with what comes: only large events take memory.
const MaxEvent = 256 << 20

// firstBuffer is what a stream takes before anything large has come.
const firstBuffer = 16 << 10

// Codec is mesos-go's protobuf codec, which reads events of up to MaxEvent instead of 4 MiB.
func Codec() encoding.Codec {
	codec := codecs.ByMediaType[codecs.MediaTypeProtobuf]
	codec.NewDecoder = func(source encoding.Source) encoding.Decoder {
		reader := source()
		// A stream's reader is a bufio.Scanner; a single answer's has no limit.
		if scanner, ok := reader.(interface{ Buffer([]byte, int) }); ok {
			scanner.Buffer(make([]byte, firstBuffer), MaxEvent)
		}
		return proto.NewDecoder(func() framing.Reader { return reader })
	}
	return codec
}
