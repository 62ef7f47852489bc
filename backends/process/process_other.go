//go:build !linux && !darwin

package process

import (
	"context"
	"errors"
	"syscall"
)

func inspect(int) (string, bool, error)              { return "", false, errors.ErrUnsupported }
func (p Process) wait(context.Context) (Exit, error) { return Exit{}, errors.ErrUnsupported }
func (p Process) signal(syscall.Signal) error        { return errors.ErrUnsupported }
