package mesosstate

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"strconv"

	mesos "github.com/mesos/mesos-go/api/v1/lib"
	pb "github.com/mesos/mesos-go/api/v1/lib/master"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/k8sm/k8sm/api/mesoshttp"
)

const (
	// maxObject is the size of the largest object within an answer, in bytes. That of a framework has all its offers.
	maxObject = 64 << 20
	maxRecord = 1 << 40
	maxDigits = 20 // of a record's length
	// maxObjects is how many tasks, agents, executors and frameworks are kept, of each.
	maxObjects = 1 << 20
)

// errTooMany is the error for a cluster that is too large.
var errTooMany = fmt.Errorf("the Mesos cluster has more than %d tasks, agents, executors or frameworks", maxObjects)

// Reader reads the messages of a master. It is for one goroutine.
type Reader struct {
	from   *bufio.Reader
	at     int64  // how many bytes have been read
	buffer []byte // of the last object
}

// NewReader returns a Reader of a response's body.
func NewReader(body io.Reader) *Reader { return &Reader{from: bufio.NewReaderSize(body, 64<<10)} }

// whole is the size of a message that ends with its source.
const whole = math.MaxInt64

// field is a field of a message. Its value is read from the Reader if it is of BytesType: size bytes, or less, and the rest is skipped.
type field struct {
	number protowire.Number
	kind   protowire.Type
	size   int64
}

// fields reads a message of size bytes, field by field. Fields other than of BytesType are skipped.
func (r *Reader) fields(size int64, visit func(field) error) error {
	end := int64(whole)
	if size != whole {
		end = r.at + size
	}
	for r.at < end {
		tag, err := r.varint()
		if size == whole && errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return unexpected(err)
		}
		number, kind := protowire.DecodeTag(tag)
		if number < 1 {
			return errors.New("the message has a field without a number")
		}
		if err := r.value(field{number: number, kind: kind}, end, visit); err != nil {
			return err
		}
	}
	if r.at != end {
		return errors.New("the message is longer than it says")
	}
	return nil
}

func (r *Reader) value(f field, end int64, visit func(field) error) error {
	switch f.kind {
	case protowire.VarintType:
		_, err := r.varint()
		return unexpected(err)
	case protowire.Fixed32Type:
		return r.skip(4)
	case protowire.Fixed64Type:
		return r.skip(8)
	case protowire.BytesType:
		size, err := r.varint()
		if err != nil {
			return unexpected(err)
		}
		if r.at > end || size > uint64(end-r.at) {
			return errors.New("a field is longer than its message")
		}
		f.size = int64(size)
		after := r.at + f.size
		if err := visit(f); err != nil {
			return err
		}
		return r.skip(after - r.at)
	}
	return errors.New("the message has a group, and those of Mesos have none")
}

// unexpected returns the error for an end within a message.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// varint reads a number. The error is io.EOF only if nothing was left.
func (r *Reader) varint() (uint64, error) {
	var raw [binary.MaxVarintLen64]byte
	for i := range raw {
		b, err := r.from.ReadByte()
		if err != nil && i > 0 {
			return 0, unexpected(err)
		}
		if err != nil {
			return 0, err
		}
		r.at++
		if raw[i] = b; b < 0x80 {
			value, n := protowire.ConsumeVarint(raw[:i+1])
			if n < 0 {
				return 0, protowire.ParseError(n)
			}
			return value, nil
		}
	}
	return 0, errors.New("a number of the message does not end")
}

func (r *Reader) skip(size int64) error {
	for size > 0 {
		n, err := r.from.Discard(int(min(size, 1<<30)))
		r.at += int64(n)
		size -= int64(n)
		if err != nil {
			return unexpected(err)
		}
	}
	return nil
}

// bytes reads size bytes. They are valid until the next call.
func (r *Reader) bytes(size int64) ([]byte, error) {
	if size > maxObject {
		return nil, fmt.Errorf("an object has %d bytes, and %d are allowed", size, maxObject)
	}
	// The buffer grows with what comes, not with what a length promises.
	r.buffer = r.buffer[:0]
	for int64(len(r.buffer)) < size {
		step := min(size-int64(len(r.buffer)), 1<<20)
		begin := len(r.buffer)
		r.buffer = append(r.buffer, make([]byte, step)...)
		n, err := io.ReadFull(r.from, r.buffer[begin:])
		r.at += int64(n)
		if err != nil {
			return nil, unexpected(err)
		}
	}
	return r.buffer, nil
}

// message is a message that mesos-go has generated.
type message interface{ Unmarshal([]byte) error }

// object decodes a message of size bytes into one that is empty, without the fields that are to be left out.
func (r *Reader) object(size int64, into message, without ...protowire.Number) error {
	data, err := r.bytes(size)
	if err != nil {
		return err
	}
	if data, err = leaveOut(data, without); err != nil {
		return err
	}
	if err := mesoshttp.CheckMessage(data, reflect.TypeOf(into).Elem()); err != nil {
		return err
	}
	return into.Unmarshal(data)
}

// leaveOut removes fields from the data of a message, in place.
func leaveOut(data []byte, without []protowire.Number) ([]byte, error) {
	if len(without) == 0 {
		return data, nil
	}
	kept := data[:0]
	for len(data) > 0 {
		number, _, n := protowire.ConsumeField(data)
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		drop := false
		for _, w := range without {
			drop = drop || w == number
		}
		if !drop {
			kept = append(kept, data[:n]...) // never beyond what was read
		}
		data = data[n:]
	}
	return kept, nil
}

// recordSize reads the length of the next record (https://mesos.apache.org/documentation/latest/recordio/).
func (r *Reader) recordSize() (int64, error) {
	var digits []byte
	for len(digits) <= maxDigits {
		b, err := r.from.ReadByte()
		if err != nil && len(digits) > 0 {
			return 0, unexpected(err)
		}
		if err != nil {
			return 0, err
		}
		if r.at++; b == '\n' {
			size, err := strconv.ParseInt(string(digits), 10, 64)
			if err != nil || size < 0 || size > maxRecord {
				return 0, fmt.Errorf("the stream is not of RecordIO: %q is not the length of a record", digits)
			}
			return size, nil
		}
		digits = append(digits, b)
	}
	return 0, errors.New("the stream is not of RecordIO: no length of a record ends")
}

// ReadEvent reads the next event of SUBSCRIBE, and returns it; the error is io.EOF where the stream ends. For SUBSCRIBED, state is the
// cluster that it has, and the event has all but that.
func (r *Reader) ReadEvent() (event *pb.Event, state *Cluster, err error) {
	size, err := r.recordSize()
	if err != nil {
		return nil, nil, err
	}
	event = &pb.Event{}
	err = r.fields(size, func(f field) error {
		switch f.number {
		case 2:
			state, event.Type = New(), pb.Event_SUBSCRIBED
			return r.subscribed(f.size, state)
		case 3:
			event.Type, event.TaskAdded = pb.Event_TASK_ADDED, &pb.Event_TaskAdded{}
			return r.object(f.size, event.TaskAdded)
		case 4:
			event.Type, event.TaskUpdated = pb.Event_TASK_UPDATED, &pb.Event_TaskUpdated{}
			return r.object(f.size, event.TaskUpdated)
		case 5:
			event.Type, event.AgentAdded = pb.Event_AGENT_ADDED, &pb.Event_AgentAdded{}
			return r.object(f.size, event.AgentAdded)
		case 6:
			event.Type, event.AgentRemoved = pb.Event_AGENT_REMOVED, &pb.Event_AgentRemoved{}
			return r.object(f.size, event.AgentRemoved)
		case 7:
			event.Type, event.FrameworkAdded = pb.Event_FRAMEWORK_ADDED, &pb.Event_FrameworkAdded{}
			return r.object(f.size, event.FrameworkAdded)
		case 8:
			event.Type, event.FrameworkUpdated = pb.Event_FRAMEWORK_UPDATED, &pb.Event_FrameworkUpdated{}
			return r.object(f.size, event.FrameworkUpdated)
		case 9:
			event.Type, event.FrameworkRemoved = pb.Event_FRAMEWORK_REMOVED, &pb.Event_FrameworkRemoved{}
			return r.object(f.size, event.FrameworkRemoved)
		}
		return nil
	})
	return event, state, err
}

func (r *Reader) subscribed(size int64, state *Cluster) error {
	return r.fields(size, func(f field) error {
		if f.number == 1 {
			return r.state(f.size, state)
		}
		return nil
	})
}

// state reads a GetState.
func (r *Reader) state(size int64, c *Cluster) error {
	return r.fields(size, func(f field) error {
		switch f.number {
		case 1:
			return r.tasks(f.size, c)
		case 2:
			return r.executors(f.size, c)
		case 3:
			return r.frameworks(f.size, c)
		case 4:
			return r.agents(f.size, c)
		}
		return nil
	})
}

// see reads an object that the cluster is to note, without the fields that are to be left out.
func see[T any, M interface {
	*T
	message
}](r *Reader, c *Cluster, f field, note func(M), without ...protowire.Number) error {
	seen := M(new(T))
	if err := r.object(f.size, seen, without...); err != nil {
		return err
	}
	note(seen)
	return c.bounded()
}

func (r *Reader) tasks(size int64, c *Cluster) error {
	return r.fields(size, func(f field) error {
		if f.number != 2 { // the others have ended, or their agents are unreachable
			return nil
		}
		// The statuses and what follows them are many times as large as what is needed.
		return see(r, c, f, func(t *mesos.Task) { c.seeTask(t) }, 8, 10, 11, 12, 13, 15, 16)
	})
}

func (r *Reader) executors(size int64, c *Cluster) error {
	return r.fields(size, func(f field) error {
		if f.number != 1 {
			return nil
		}
		return see(r, c, f, c.seeExecutor)
	})
}

func (r *Reader) frameworks(size int64, c *Cluster) error {
	return r.fields(size, func(f field) error {
		if f.number != 1 {
			return nil
		}
		return see(r, c, f, c.seeFramework, 7, 8) // not its offers, which may be as many as there are agents
	})
}

func (r *Reader) agents(size int64, c *Cluster) error {
	return r.fields(size, func(f field) error {
		switch f.number {
		case 1:
			return see(r, c, f, c.seeAgent)
		case 2:
			return see(r, c, f, c.seeRecovered)
		}
		return nil
	})
}

// ReadAnswer reads the answer to a call: a whole body. What the answer is about is replaced in the returned Cluster, which has nothing
// else; see Cluster.Take. It reads GET_AGENTS, GET_FRAMEWORKS, GET_EXECUTORS, GET_ROLES, GET_WEIGHTS, GET_QUOTA, GET_MASTER,
// GET_VERSION, GET_MAINTENANCE_SCHEDULE and GET_MAINTENANCE_STATUS.
func (r *Reader) ReadAnswer() (*Cluster, error) {
	c := New()
	err := r.fields(whole, func(f field) error {
		switch f.number {
		case 10:
			c.parts.agents = true
			return r.agents(f.size, c)
		case 11:
			c.parts.frameworks = true
			return r.frameworks(f.size, c)
		case 12:
			c.parts.executors = true
			return r.executors(f.size, c)
		}
		return r.small(f, c)
	})
	return c, err
}

// small reads the answers that are small in every cluster.
func (r *Reader) small(f field, c *Cluster) error {
	switch f.number {
	case 4:
		var version pb.Response_GetVersion
		if err := r.object(f.size, &version); err != nil {
			return err
		}
		c.version = version.VersionInfo.Version
	case 14:
		c.parts.roles = &pb.Response_GetRoles{}
		return r.object(f.size, c.parts.roles)
	case 15:
		c.parts.weights = &pb.Response_GetWeights{}
		return r.object(f.size, c.parts.weights)
	case 16:
		c.parts.master = &pb.Response_GetMaster{}
		return r.object(f.size, c.parts.master)
	case 17:
		c.parts.status = &pb.Response_GetMaintenanceStatus{}
		return r.object(f.size, c.parts.status)
	case 18:
		c.parts.schedule = &pb.Response_GetMaintenanceSchedule{}
		return r.object(f.size, c.parts.schedule)
	case 19:
		c.parts.quota = &pb.Response_GetQuota{}
		return r.object(f.size, c.parts.quota)
	}
	return nil
}
