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

// callTimeout bounds calls without a deadline, so that a hanging Engine does not block them forever. It is the kubelet's default
// (--runtime-request-timeout).
const callTimeout = 2 * time.Minute

// statusTimeout bounds the Engine's answer for Status. It is shorter than the kubelet's timeout, so that the kubelet gets the
// reason.
const statusTimeout = 10 * time.Second

// unary wraps each plain call: it sets a deadline, and converts errors to gRPC's.
func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (response any, err error) {
	began := time.Now()
	defer func() { s.called(info.FullMethod, began, err) }()
	switch r := req.(type) {
	case *runtimeapi.StopContainerRequest:
		var cancel context.CancelFunc
		ctx, cancel = s.bound(ctx, time.Duration(max(r.GetTimeout(), 0))*time.Second)
		defer cancel()
	case *runtimeapi.ExecSyncRequest, *runtimeapi.PullImageRequest:
		// Commands and progressing pulls may take any time; they bound their own calls to the Engine.
	default:
		var cancel context.CancelFunc
		ctx, cancel = s.bound(ctx, 0)
		defer cancel()
	}
	end := s.trace(ctx, req)
	response, err = handler(ctx, req)
	end(err)
	if err != nil {
		s.log.WithError(err).WithField("call", method(info.FullMethod)).Debug("CRI call failed")
		return nil, statusError(err)
	}
	return response, nil
}

// bound returns a context for calls to the Engine, with the caller's deadline or our default. longer is added to the default, for
// calls that make the Engine wait.
func (s *Server) bound(ctx context.Context, longer time.Duration) (context.Context, context.CancelFunc) {
	if _, set := ctx.Deadline(); set {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, s.cfg.CallTimeout+longer)
}

// stream wraps each streaming call.
func (s *Server) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	began := time.Now()
	if err = handler(srv, stream); err != nil {
		err = statusError(err)
	}
	if info.FullMethod != runtimeapi.RuntimeService_GetContainerEvents_FullMethodName { // it lasts as long as the caller
		s.called(info.FullMethod, began, err)
	}
	return err
}

func (s *Server) called(full string, began time.Time, err error) {
	if s.cfg.Called != nil {
		s.cfg.Called(method(full), time.Since(began), err)
	}
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

// notFound is the error for a container that does not exist or is not ours. We make no difference.
func notFound(kind, id string) error {
	return status.Errorf(codes.NotFound, "%s %s not found", kind, id)
}

func isNotFound(err error) bool {
	return err != nil && (cerrdefs.IsNotFound(err) || status.Code(err) == codes.NotFound)
}
