package ninep

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vmfs/ninep/wire/wiretest"
)

// rawClient speaks in frames.
type rawClient struct {
	net.Conn
	t       testing.TB
	dialect string // for the formats
}

// raw dials and negotiates.
func (ts *testServer) raw(version string) *rawClient {
	c := &rawClient{Conn: ts.dial(), t: ts.t, dialect: strings.Split(version, ".Google")[0]}
	c.send("Tversion", 0xffff, "msize", "65536", "version", version)
	name, _, vals := c.recv()
	require.Equal(ts.t, "Rversion", name)
	require.Equal(ts.t, version, wiretest.String(vals["version"]))
	return c
}

// attach attaches fid 0.
func (c *rawClient) attach() *rawClient {
	c.send("Tattach", 1, "fid", "0", "afid", "NOFID", "uname", "u", "uid", "NONUNAME")
	c.want("Rattach", 1)
	return c
}

func (c *rawClient) send(name string, tag uint16, args ...string) {
	c.t.Helper()
	m := make(map[string]string)
	_, fields, _ := wiretest.Format(c.dialect, name)
	for i := 0; i < len(args); i += 2 {
		for _, f := range fields {
			if f.Name == args[i] || f.Kind[0] == 'n' && f.Kind != "names" {
				m[args[i]] = args[i+1]
			}
		}
	}
	_, err := c.Write(wiretest.Encode(c.dialect, name, tag, m))
	require.NoError(c.t, err)
}

func (c *rawClient) recvFrame() ([]byte, error) {
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	head := make([]byte, 4)
	if _, err := io.ReadFull(c, head); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint32(head)
	if n < 7 || n > 16<<20 {
		return nil, errors.New("bad length of a reply")
	}
	frame := append(head, make([]byte, n-4)...)
	_, err := io.ReadFull(c, frame[4:])
	return frame, err
}

func (c *rawClient) recv() (string, uint16, map[string]string) {
	c.t.Helper()
	frame, err := c.recvFrame()
	require.NoError(c.t, err)
	name, tag, vals, err := wiretest.Decode(c.dialect, frame)
	require.NoError(c.t, err)
	return name, tag, vals
}

// want takes a reply and checks its name, tag, and some fields.
func (c *rawClient) want(name string, tag uint16, args ...string) map[string]string {
	c.t.Helper()
	got, gotTag, vals := c.recv()
	require.Equal(c.t, name, got, "%v", vals)
	require.Equal(c.t, tag, gotTag)
	for i := 0; i < len(args); i += 2 {
		require.True(c.t, wiretest.Equal(vals[args[i]], args[i+1]), "%s: %s is %s, want %s", name, args[i], vals[args[i]], args[i+1])
	}
	return vals
}

// rpc sends and takes the reply.
func (c *rawClient) rpc(name, reply string, args ...string) map[string]string {
	c.t.Helper()
	c.send(name, 7, args...)
	return c.want(reply, 7)
}
