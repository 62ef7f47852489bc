//go:build !darwin

package framework

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"

	"vmfs/backends/vz/shim"
)

func TestMissing(t *testing.T) {
	e := New()
	_, err := e.Host()
	assert.ErrorIs(t, err, errors.ErrUnsupported)
	assert.ErrorContains(t, err, "a Mac alone")
	_, err = e.New(nil, shim.Files{})
	assert.ErrorIs(t, err, errors.ErrUnsupported)
}
