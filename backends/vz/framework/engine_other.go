//go:build !darwin || !cgo

package framework

import (
	"errors"
	"fmt"
	"runtime"

	"vmfs/backends/vz/shim"
	"vmfs/backends/vz/shimconfig"
)

// New returns an engine that says what is missing.
func New() shim.Engine { return missing{} }

type missing struct{}

func (missing) err() error {
	if runtime.GOOS != "darwin" {
		return fmt.Errorf("there is Virtualization.framework on a Mac alone, and this is %s: %w", runtime.GOOS, errors.ErrUnsupported)
	}
	return fmt.Errorf("this vmfs was built without cgo, and so without Virtualization.framework: build it on a Mac by `make mac`: %w", errors.ErrUnsupported)
}

func (m missing) Host() (shimconfig.Host, error) { return shimconfig.Host{}, m.err() }

func (m missing) Check(*shimconfig.Config) (shimconfig.Support, error) {
	return shimconfig.Support{}, m.err()
}

func (m missing) New(_ *shimconfig.Config, files shim.Files) (shim.Machine, error) {
	files.Close()
	return nil, m.err()
}
