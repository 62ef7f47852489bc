package agent

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"vmfs/guest"
	"vmfs/guest/internal/kmod"
)

// The agent does not import the builder, but they have to agree.
func TestPathsAgree(t *testing.T) {
	assert.Equal(t, guest.ModulesPath, kmod.List)
	assert.Equal(t, guest.ScriptPath, scriptFile)
}
