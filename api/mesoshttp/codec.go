package mesoshttp

import (
	"github.com/mesos/mesos-go/api/v1/lib/encoding"
	"github.com/mesos/mesos-go/api/v1/lib/encoding/codecs"
	"github.com/mesos/mesos-go/api/v1/lib/encoding/framing"
	"github.com/mesos/mesos-go/api/v1/lib/encoding/proto"
)

// MaxEvent is the size of the largest event, in bytes. A master sends all offers of an allocation in one event (Master::offer in
// src/master/master.cpp), about 600 bytes per agent, or 1,000 with a dozen attributes. So this is enough for 250,000 agents. The
// buffer grows as needed.
const MaxEvent = 256 << 20

// firstBuffer is the initial buffer of a stream.
const firstBuffer = 16 << 10

// Codec is mesos-go's protobuf codec, but reads events of up to MaxEvent instead of 4 MiB.
func Codec() encoding.Codec {
	codec := codecs.ByMediaType[codecs.MediaTypeProtobuf]
	codec.NewDecoder = func(source encoding.Source) encoding.Decoder {
		reader := source()
		// The reader of a stream is a bufio.Scanner. That of a single answer has no limit.
		if scanner, ok := reader.(interface{ Buffer([]byte, int) }); ok {
			scanner.Buffer(make([]byte, firstBuffer), MaxEvent)
		}
		return proto.NewDecoder(func() framing.Reader { return reader })
	}
	return codec
}
