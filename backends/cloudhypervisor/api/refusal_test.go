package api

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzRefusal makes of whatever comes with a status of failure one line that names the call.
func FuzzRefusal(f *testing.F) {
	f.Add([]byte("[\"Error\",\"Disk(Io(Bad))\"]"))
	f.Add([]byte("{\"error\":\"full\"}"))
	f.Fuzz(func(t *testing.T, body []byte) {
		text := refusal("vm.boot", 500, body).Error()
		require.Contains(t, text, "vm.boot")
		require.NotContains(t, text, "\n")
	})
}
