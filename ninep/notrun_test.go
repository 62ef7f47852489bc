package ninep

import (
	"context"
	"testing"

	"github.com/hugelgupf/p9/p9"
	"github.com/stretchr/testify/require"

	"vmfs/ninep/wire/wiretest"
)

// quickUsers lets every user in at once.
type quickUsers struct{ *memFS }

func (u quickUsers) AttachUser(context.Context, Caller, string, uint32, string) (p9.File, error) {
	return u.Attach()
}

// TestNeverRun: a request may be flushed before the goroutine that is to carry
// it out has begun. What it had reserved is free again: the fid of an attach, a
// fid that was to be opened, the directories of a rename.
func TestNeverRun(t *testing.T) {
	const times = 300
	fs := basicTree()
	stream := fs.streamFile("o")
	stream.openErr = make(chan error)
	ts := serve(t, quickUsers{fs})
	c := ts.raw("9P2000.L")
	// both sends a request and its flush in one write, and gives the reply to
	// the request, if there was one.
	both := func(name string, args ...string) (reply string) {
		t.Helper()
		m := make(map[string]string)
		for i := 0; i < len(args); i += 2 {
			m[args[i]] = args[i+1]
		}
		b := wiretest.Encode("9P2000.L", name, 1, m)
		_, err := c.Write(append(b, wiretest.Encode("9P2000.L", "Tflush", 2, map[string]string{"oldtag": "1"})...))
		require.NoError(t, err)
		got, tag, _ := c.recv()
		if tag == 2 {
			return ""
		}
		c.want("Rflush", 2)
		return got
	}
	for range times {
		if both("Tattach", "fid", "0", "afid", "NOFID", "uname", "u", "uid", "NONUNAME") == "Rattach" {
			c.rpc("Tclunk", "Rclunk", "fid", "0")
		}
	}
	c.rpc("Tattach", "Rattach", "fid", "0", "afid", "NOFID", "uname", "u", "uid", "NONUNAME")

	c.rpc("Twalk", "Rwalk", "fid", "0", "newfid", "1", "names", "o")
	for range times {
		require.Equal(t, "Rlerror", both("Tlopen", "fid", "1", "flags", "0"))
	}
	c.send("Tlopen", 3, "fid", "1", "flags", "0")
	give(t, "open", stream.openErr, error(nil))
	c.want("Rlopen", 3)

	c.rpc("Twalk", "Rwalk", "fid", "0", "newfid", "2", "names", "slow")
	for i := range times {
		if both("Tlcreate", "fid", "2", "name", "f", "flags", "2", "mode", "0600") == "Rlcreate" {
			c.rpc("Tremove", "Rremove", "fid", "2")
			c.rpc("Twalk", "Rwalk", "fid", "0", "newfid", "2", "names", "slow")
		}
		both("Trenameat", "olddfid", "2", "oldname", []string{"x", "y"}[i%2], "newdfid", "2", "newname", "z")
	}
	c.rpc("Tlcreate", "Rlcreate", "fid", "2", "name", "f", "flags", "2", "mode", "0600")
}

// TestVersionBeforeAttach: a new session begins while users of the old one are
// still being looked up.
func TestVersionBeforeAttach(t *testing.T) {
	ts := serve(t, quickUsers{basicTree()})
	c := ts.raw("9P2000.L")
	var b []byte
	for range 50 {
		b = append(b, wiretest.Encode("9P2000.L", "Tattach", 1, map[string]string{"fid": "0", "afid": "NOFID"})...)
		b = append(b, wiretest.Encode("9P2000.L", "Tversion", 0xffff, map[string]string{"msize": "8192", "version": "9P2000.L"})...)
	}
	for range 20 {
		_, err := c.Write(b)
		require.NoError(t, err)
		for versions := 0; versions < 50; {
			if name, _, _ := c.recv(); name == "Rversion" {
				versions++
			}
		}
	}
	c.rpc("Tattach", "Rattach", "fid", "0", "afid", "NOFID")
}
