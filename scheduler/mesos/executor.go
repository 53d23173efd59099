package mesos

import (
	"fmt"

	mesos "github.com/mesos/mesos-go/api/v1/lib"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/scheduler/run"
)

// Codec encodes executors as ExecutorInfos in protobuf. It implements run.ExecutorCodec.
type Codec struct{}

// EncodeExecutor returns the ExecutorInfo of an executor. Equal executors give equal bytes.
func (Codec) EncodeExecutor(e run.Executor) ([]byte, error) {
	resources, err := resourcesTo(e.Resources)
	if err != nil {
		return nil, err
	}
	shell := true
	command := &mesos.CommandInfo{Shell: &shell, Value: &e.Command}
	for _, uri := range e.Archives {
		executable, cache, extract := false, true, true // the fetcher does not extract what is executable
		command.URIs = append(command.URIs, mesos.CommandInfo_URI{Value: uri, Executable: &executable, Cache: &cache, Extract: &extract})
	}
	info := mesos.ExecutorInfo{
		Type:        mesos.ExecutorInfo_CUSTOM,
		ExecutorID:  mesos.ExecutorID{Value: string(e.ID)},
		FrameworkID: &mesos.FrameworkID{Value: string(e.Framework)},
		Command:     command,
		Resources:   resources,
		Name:        &e.Name,
		Source:      &e.Source,
		Data:        e.Data,
	}
	record, err := info.Marshal()
	if err != nil {
		return nil, fmt.Errorf("cannot write ExecutorInfo: %w", err)
	}
	return record, nil
}

// DecodeExecutor is the inverse of EncodeExecutor.
func (Codec) DecodeExecutor(record []byte) (run.Executor, error) {
	var info mesos.ExecutorInfo
	if err := info.Unmarshal(record); err != nil {
		return run.Executor{}, fmt.Errorf("cannot read ExecutorInfo: %w", err)
	}
	e := run.Executor{
		Framework: api.FrameworkID(info.GetFrameworkID().GetValue()),
		ID:        api.ExecutorID(info.ExecutorID.Value),
		Name:      info.GetName(),
		Source:    info.GetSource(),
		Command:   info.GetCommand().GetValue(),
		Data:      info.Data,
	}
	for _, uri := range info.GetCommand().GetURIs() {
		e.Archives = append(e.Archives, uri.Value)
	}
	for i := range info.Resources {
		r, _, err := resourceOf(&info.Resources[i])
		if err != nil {
			return run.Executor{}, err
		}
		e.Resources = append(e.Resources, r)
	}
	return e, nil
}
