package wire

import (
	"fmt"
	"io"
	"mime"
	"reflect"
	"strconv"
	"strings"

	"github.com/gogo/protobuf/proto"

	"github.com/k8sm/k8sm/api/mesoshttp"
)

// Codec is one of the two encodings of the v1 APIs.
type Codec int

// The encodings. The zero value is none of them.
const (
	JSON Codec = iota + 1
	Protobuf
)

// String returns the codec's media type, as it stands in Content-Type.
func (c Codec) String() string {
	if c == Protobuf {
		return "application/x-protobuf"
	}
	return "application/json"
}

// CodecOf returns the codec of a Content-Type header; ok is false for any other type.
func CodecOf(contentType string) (c Codec, ok bool) {
	media, _, _ := strings.Cut(contentType, ";")
	switch strings.TrimSpace(strings.ToLower(media)) {
	case JSON.String():
		return JSON, true
	case Protobuf.String():
		return Protobuf, true
	}
	return 0, false
}

// Accepted returns the codec of an answer to a request with these Accept headers: JSON if they allow it, else protobuf. Without a
// header, any is allowed (Request::acceptsMediaType in 3rdparty/libprocess/src/http.cpp).
func Accepted(headers []string) (c Codec, ok bool) {
	for _, c := range []Codec{JSON, Protobuf} {
		if headers == nil || accepts(strings.Join(headers, ","), c.String()) {
			return c, true
		}
	}
	return 0, false
}

// accepts looks for the media type, then for its kind, then for any. The first that is named decides.
func accepts(header, media string) bool {
	kind, _, _ := strings.Cut(media, "/")
	for _, candidate := range []string{media, kind + "/*", "*/*"} {
		for item := range strings.SplitSeq(header, ",") {
			name, parameters, err := mime.ParseMediaType(item)
			if err != nil || name != candidate {
				continue
			}
			q, given := parameters["q"]
			weight, err := strconv.ParseFloat(q, 64)
			return !given || err == nil && weight > 0
		}
	}
	return false
}

// Message is a generated mesos-go message.
type Message interface {
	proto.Message
	proto.Marshaler
	proto.Unmarshaler
}

// Encode returns m as a body of this encoding.
func (c Codec) Encode(m Message) ([]byte, error) {
	if c == Protobuf {
		return m.Marshal()
	}
	return MarshalJSON(m)
}

// Decode reads a body of this encoding into m. The error's text is what a Mesos master would answer with status 400.
func (c Codec) Decode(body []byte, m Message) error {
	if c == Protobuf {
		err := mesoshttp.CheckMessage(body, reflect.TypeOf(m).Elem())
		if err == nil {
			err = m.Unmarshal(body)
		}
		if err != nil {
			return fmt.Errorf("Failed to parse body into Call protobuf: %w", err) //nolint:staticcheck // Mesos's own words
		}
		return nil
	}
	return UnmarshalJSON(body, m)
}

// WriteRecord writes one RecordIO record: the length in decimal digits, a line feed, the record.
func WriteRecord(w io.Writer, record []byte) error {
	framed := make([]byte, 0, len(record)+12)
	framed = strconv.AppendInt(framed, int64(len(record)), 10)
	framed = append(framed, '\n')
	_, err := w.Write(append(framed, record...))
	return err
}
