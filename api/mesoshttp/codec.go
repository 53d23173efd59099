package mesoshttp

import (
	"bufio"
	"net/http"
	"reflect"

	"github.com/gogo/protobuf/proto"
	"github.com/mesos/mesos-go/api/v1/lib/encoding"
	"github.com/mesos/mesos-go/api/v1/lib/encoding/codecs"
	"github.com/mesos/mesos-go/api/v1/lib/httpcli"
)

// MaxEvent is the size of the largest event, in bytes. A master sends all offers of an allocation in one event (Master::offer in
// src/master/master.cpp), about 600 bytes per agent, or 1,000 with a dozen attributes. So this is enough for 250,000 agents. The
// buffer grows as needed.
const MaxEvent = 256 << 20

// firstBuffer is the initial buffer of a stream.
const firstBuffer = 16 << 10

// Codec is mesos-go's protobuf codec, but reads events of up to MaxEvent instead of 4 MiB, and checks what it reads: a broken or
// malicious server costs the connection, not the process. Nothing else must have read from the source.
func Codec() encoding.Codec {
	codec := codecs.ByMediaType[codecs.MediaTypeProtobuf]
	codec.NewDecoder = func(source encoding.Source) encoding.Decoder {
		reader := source()
		// The reader of a stream is a bufio.Scanner. That of a single answer is not: see Bounded.
		if scanner, ok := reader.(interface {
			Buffer([]byte, int)
			Split(bufio.SplitFunc)
		}); ok {
			scanner.Buffer(make([]byte, firstBuffer), MaxEvent+maxDigits+1)
			scanner.Split(records(MaxEvent))
		}
		return encoding.DecoderFunc(func(to encoding.Unmarshaler) error {
			message, err := reader.ReadFrame()
			if err != nil {
				return err
			}
			if err := CheckMessage(message, reflect.TypeOf(to).Elem()); err != nil {
				return err
			}
			return proto.Unmarshal(message, to.(proto.Message))
		})
	}
	return codec
}

// Bounded limits single answers to MaxEvent. Streams have no end.
func Bounded(do func(*http.Request) (*http.Response, error)) httpcli.DoFunc {
	return func(request *http.Request) (*http.Response, error) {
		response, err := do(request)
		if err == nil && (response.ContentLength >= 0 || response.StatusCode != http.StatusOK) {
			response.Body = http.MaxBytesReader(nil, response.Body, MaxEvent)
		}
		return response, err
	}
}
