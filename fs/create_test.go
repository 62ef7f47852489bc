package fs

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"testing"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/machine"
	"vmfs/ninep"
	p9wire "vmfs/ninep/wire"
)

// TestCreateWhatIsThere: a client that asks to create a file that is there, as a shell's
// `>` may, gets it opened, or is told that it is there, and never that nothing can be
// created.
func TestCreateWhatIsThere(t *testing.T) {
	host := newHost(t)
	_, err := host.Create("web", machine.Owner{Mode: 0o700})
	require.NoError(t, err)
	near, far := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = (&ninep.Server{Attacher: rootTree{New(host, Options{})}}).ServeConn(context.Background(), far)
	}()
	defer func() {
		near.Close()
		<-done
	}()
	codec := p9wire.Codec{Dialect: p9wire.Linux}
	rpc := func(typ p9wire.Type, m p9wire.Msg) (reply p9wire.Msg) {
		t.Helper()
		_, err := near.Write(codec.Append(nil, typ, &m))
		require.NoError(t, err)
		size := make([]byte, 4)
		_, err = io.ReadFull(near, size)
		require.NoError(t, err)
		frame := append(size, make([]byte, binary.LittleEndian.Uint32(size)-4)...)
		_, err = io.ReadFull(near, frame[4:])
		require.NoError(t, err)
		require.NoError(t, codec.Decode(frame, &reply))
		return reply
	}
	require.Equal(t, p9wire.Tversion+1, rpc(p9wire.Tversion, p9wire.Msg{Tag: p9wire.NoTag, Count: 8192, Name: "9P2000.L"}).Type)
	require.Equal(t, p9wire.Tattach+1, rpc(p9wire.Tattach, p9wire.Msg{Fid: 0, Fid2: p9wire.NoFid, UID: p9wire.NoUser}).Type)
	const create, excl = 0o100, 0o200
	for i, c := range []struct {
		name  string
		flags uint32
		errno linux.Errno // 0 if it is opened
	}{
		{"state", create, 0},
		{"ctl", create | 2, 0},
		{"state", create | excl, linux.EEXIST},
		{"state", create | 1, linux.EACCES},
		{"snapshots", create, linux.EISDIR},
		{"new", create | 2, linux.EPERM},
	} {
		fid := uint32(i + 1)
		require.Equal(t, p9wire.Twalk+1, rpc(p9wire.Twalk, p9wire.Msg{Fid2: fid, Names: []string{"web"}}).Type)
		got := rpc(p9wire.Tlcreate, p9wire.Msg{Fid: fid, Name: c.name, Flags: c.flags, Mode: 0o600})
		if c.errno != 0 {
			assert.Equal(t, p9wire.Rlerror, got.Type, c.name)
			assert.Equal(t, c.errno, linux.Errno(got.Errno), c.name)
			continue
		}
		require.Equal(t, p9wire.Tlcreate+1, got.Type, "%s: %v", c.name, linux.Errno(got.Errno))
		text := string(rpc(p9wire.Tread, p9wire.Msg{Fid: fid, Count: 4096}).Data)
		assert.Contains(t, text, map[string]string{"state": "created\n", "ctl": "start"}[c.name])
	}
}

// rootTree is a tree whose clients are root.
type rootTree struct{ *Tree }

func (t rootTree) AttachUser(ctx context.Context, _ caller, _ string, _ uint32, aname string) (p9.File, error) {
	return t.Tree.AttachUser(ctx, peer(0, 0), "", noUser, aname)
}
