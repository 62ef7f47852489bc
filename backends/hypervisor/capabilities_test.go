package hypervisor

import (
	"reflect"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Every field of Capabilities is one Capability, and no two are the same.
func TestCapabilities(t *testing.T) {
	assert.Empty(t, Capabilities{}.Words())
	seen := make(map[Capability]bool)
	fields := reflect.TypeFor[Capabilities]()
	for i := range fields.NumField() {
		var c Capabilities
		reflect.ValueOf(&c).Elem().Field(i).SetBool(true)
		words := c.Words()
		require.Len(t, words, 1, fields.Field(i).Name)
		assert.False(t, seen[words[0]], fields.Field(i).Name)
		assert.True(t, c.Has(words[0]))
		seen[words[0]] = true
	}
	assert.Len(t, capabilities, fields.NumField())
}
