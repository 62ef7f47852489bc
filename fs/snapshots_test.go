package fs

import (
	"testing"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/machine"
)

func TestSnapshots(t *testing.T) {
	root := client(t, New(newHost(t), Options{}))
	require.NoError(t, mkdir(t, root, "web"))
	names := func() []string {
		_, f, err := root.Walk([]string{"web", "snapshots"})
		require.NoError(t, err)
		defer f.Close()
		_, _, err = f.Open(p9.ReadOnly)
		require.NoError(t, err)
		ents, err := f.Readdir(0, 65536)
		require.NoError(t, err)
		var names []string
		for _, e := range ents {
			names = append(names, e.Name)
		}
		return names
	}
	assert.Empty(t, names())
	mustWrite(t, root, "web/ctl", "start\nsnapshot one\nsnapshot two")
	assert.Equal(t, []string{"one", "two"}, names())
	assert.Equal(t, cat(t, root, "web/config"), cat(t, root, "web/snapshots/one/config"))
	info := cat(t, root, "web/snapshots/two/info")
	assert.Contains(t, info, "hypervisor=sim\n")
	assert.Contains(t, info, "memory.target=536870912\n")

	_, err := open(t, root, "web/snapshots/three", p9.ReadOnly)
	assert.Equal(t, linux.ENOENT, linux.ExtractErrno(err))
	err = write(t, root, "web/ctl", "snapshot one")
	assert.Equal(t, linux.EEXIST, linux.ExtractErrno(err), "a snapshot is never overwritten")
	_, dir, err := root.Walk([]string{"web", "snapshots"})
	require.NoError(t, err)
	assert.Equal(t, linux.EISDIR, linux.ExtractErrno(dir.UnlinkAt("one", 0)))
	assert.Equal(t, linux.ENOENT, linux.ExtractErrno(dir.UnlinkAt("three", 0x200)))
	require.NoError(t, dir.UnlinkAt("one", 0x200))
	assert.Equal(t, []string{"two"}, names())

	mustWrite(t, root, "web/console", "note lost")
	mustWrite(t, root, "web/ctl", "kill\nrestore two")
	assert.Equal(t, "paused\n", cat(t, root, "web/state"))
	mustWrite(t, root, "web/ctl", "resume\nkill")
}

// TestParentOutlivesItsFid walks up from a directory whose parent's fid is gone,
// after that fid has become another VM's.
func TestParentOutlivesItsFid(t *testing.T) {
	host := newHost(t)
	root := client(t, New(host, Options{}))
	for _, name := range []string{"web", "db"} {
		_, err := host.Create(name, machine.Owner{Mode: 0o700})
		require.NoError(t, err)
	}
	web, vm, err := root.Walk([]string{"web"})
	require.NoError(t, err)
	_, below, err := vm.Walk([]string{"snapshots"})
	require.NoError(t, err)
	require.NoError(t, vm.Close())
	_, other, err := root.Walk([]string{"db"})
	require.NoError(t, err)
	defer other.Close()
	up, _, err := below.Walk([]string{".."})
	require.NoError(t, err)
	assert.Equal(t, web[0].Path, up[0].Path)
}
