package ring

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestDemo runs the demo as everybody sees it.
func TestDemo(t *testing.T) { each(t, testDemo) }

func testDemo(t *testing.T, b backend) {
	image := path(t)
	out, err := as(t, "root", "cd ../../.. && BACKEND="+b.name+" VMFS=/usr/local/bin/vmfs GUEST="+image+" examples/demo.sh")
	require.NoError(t, err, out)
	assert.Contains(t, out, "nothing is left running")
}
