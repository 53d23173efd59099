package cri

import (
	"context"
	"errors"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// callTimeout bounds a call whose caller set no bound, so that an Engine that hangs holds no call for ever. It is the
// kubelet's own default (--runtime-request-timeout).
const callTimeout = 2 * time.Minute

// unary runs each plain call: with a deadline, and with its error in gRPC's words.
func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	timeout := callTimeout
	switch r := req.(type) {
	case *runtimeapi.StopContainerRequest:
		timeout += time.Duration(r.GetTimeout()) * time.Second
	case *runtimeapi.ExecSyncRequest:
		timeout = 0 // it has one of its own
	case *runtimeapi.PullImageRequest:
		timeout = 0 // as long as it makes progress, which the kubelet judges
	}
	if _, set := ctx.Deadline(); !set && timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	response, err := handler(ctx, req)
	if err != nil {
		s.log.WithError(err).WithField("call", method(info.FullMethod)).Debug("CRI call failed")
		return nil, statusError(err)
	}
	return response, nil
}

// stream runs each call that answers by a stream.
func (s *Server) stream(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if err := handler(srv, stream); err != nil {
		return statusError(err)
	}
	return nil
}

func method(full string) string { return full[strings.LastIndexByte(full, '/')+1:] }

// statusError gives an error the gRPC code that the kubelet acts upon, above all NotFound.
func statusError(err error) error {
	var refused *refusal
	code := codes.Unknown
	switch {
	case status.Code(err) != codes.Unknown:
		code = status.Code(err)
	case errors.As(err, &refused):
		code = codes.InvalidArgument
	case errors.Is(err, context.DeadlineExceeded):
		code = codes.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	case cerrdefs.IsNotFound(err):
		code = codes.NotFound
	case cerrdefs.IsInvalidArgument(err):
		code = codes.InvalidArgument
	case cerrdefs.IsConflict(err):
		code = codes.FailedPrecondition
	}
	return status.Error(code, err.Error())
}

// notFound is the error for a container that does not exist or is not ours: to us that is the same.
func notFound(kind, id string) error {
	return status.Errorf(codes.NotFound, "there is no %s %s", kind, id)
}

func isNotFound(err error) bool {
	return err != nil && (cerrdefs.IsNotFound(err) || status.Code(err) == codes.NotFound)
}
