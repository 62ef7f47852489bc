package ninep

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"vmfs/ninep/wire/wiretest"
)

// TestEndLoop frees a client that reads the end of a file at full speed, and leaves
// one alone that waits for it to grow.
func TestEndLoop(t *testing.T) {
	fs := basicTree()
	fs.file("short", "text")
	st := fs.streamFile("s")
	close(st.in) // its end has come
	ts := serve(t, fs)
	for i, name := range []string{"short", "s"} {
		c := ts.raw("9P2000.L").attach()
		fid := strconv.Itoa(1 + i)
		c.rpc("Twalk", "Rwalk", "fid", "0", "newfid", fid, "names", name)
		c.rpc("Tlopen", "Rlopen", "fid", fid)
		freed := false
		for range 100 * loopReads {
			c.send("Tread", 7, "fid", fid, "offset", "4", "count", "100")
			if reply, _, vals := c.recv(); reply == "Rlerror" {
				assert.True(t, wiretest.Equal(vals["ecode"], "EIO"), "%v", vals)
				freed = true
				break
			}
		}
		assert.True(t, freed, name)
		c.rpc("Tread", "Rread", "fid", fid, "offset", "4", "count", "100")
	}

	at := time.Unix(0, 0)
	now := func() time.Time { return at }
	var l endLoop
	for range 5 * loopReads { // a reader that looks now and then
		at = at.Add(2 * loopPause)
		assert.False(t, l.read(4, 0, now))
	}
	for range 5 * loopReads { // one that gets something in between, or looks elsewhere
		assert.False(t, l.read(0, 4, now))
		assert.False(t, l.read(4, 0, now))
	}
	for i := range 5 * loopReads {
		assert.False(t, l.read(uint64(i), 0, now))
	}
}
