//go:build !linux

package serial

import (
	"errors"
	"fmt"
	"os"
)

const nonblock = 0

// MakeOutput returns an error: there is no process that would read it.
func MakeOutput(string) (*os.File, error) { return nil, errors.ErrUnsupported }

func openOutput(string) (*os.File, error) { return nil, errors.ErrUnsupported }

func command([]string) int {
	fmt.Fprintln(os.Stderr, name+": it runs on Linux")
	return 1
}
