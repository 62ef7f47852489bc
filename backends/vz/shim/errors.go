package shim

import (
	"context"
	"errors"
	"fmt"

	"vmfs/backends/vz/shimapi"
)

// ErrRefused is a guest that has no listener on a vsock port.
var ErrRefused = errors.New("the guest refuses the connection")

func coded(code shimapi.Code, format string, args ...any) error {
	return &shimapi.Error{Code: code, Text: fmt.Sprintf(format, args...)}
}

// answer makes an error one that a client is told.
func answer(err error) *shimapi.Error {
	var e *shimapi.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &e):
		return &shimapi.Error{Code: e.Code, Text: err.Error()}
	case errors.Is(err, context.Canceled):
		return &shimapi.Error{Code: shimapi.CodeCancelled, Text: "the request was cancelled"}
	case errors.Is(err, errors.ErrUnsupported):
		return &shimapi.Error{Code: shimapi.CodeUnsupported, Text: err.Error()}
	}
	return &shimapi.Error{Code: shimapi.CodeFailed, Text: err.Error()}
}
