package agent

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"vmfs/guest"
)

// The agent does not import the builder, but they have to agree.
func TestPathsAgree(t *testing.T) {
	assert.Equal(t, guest.ModulesPath, modulesList)
	assert.Equal(t, guest.ScriptPath, scriptFile)
}
