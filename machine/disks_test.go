package machine

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
	"vmfs/backends/sim"
)

// The size of a disk can change while a VM runs, and nothing else of it.
func TestGrowLive(t *testing.T) {
	h, w := simHost(t)
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	bytes := func(path string) int64 {
		fi, err := os.Stat(path)
		require.NoError(t, err)
		return fi.Size()
	}
	disks := func(sizes ...string) string {
		return fmt.Sprintf("disk=\ndisk=path:%s,size:%s\ndisk=path:%s,size:%s", a, sizes[0], b, sizes[1])
	}
	v := started(t, h, "web", disks("1M", "1M"))
	assert.EqualValues(t, 1<<20, bytes(a), "a start makes the image")

	require.NoError(t, v.SetConfig(within(t), disks("3M", "2M"), false))
	assert.EqualValues(t, 3<<20, bytes(a))
	assert.EqualValues(t, 2<<20, bytes(b))
	assert.Contains(t, v.Config().String(), "path:"+a+",format:raw,size:3M")
	kept, err := os.ReadFile(filepath.Join(v.dir, configFile))
	require.NoError(t, err)
	assert.Equal(t, v.Config().String(), string(kept))

	for change, is := range map[string]error{
		disks("3M", "1M"):                           hypervisor.ErrInvalid, // smaller
		"disk=path:" + dir + "/c,size:1M":           hypervisor.ErrBusy,
		"disk=":                                     hypervisor.ErrBusy,
		disks("4M,format:qcow2", "2M"):              hypervisor.ErrBusy,
		disks("4M", "2M") + "\nvcpus=2":             hypervisor.ErrBusy,
		strings.ReplaceAll(disks("4M", "2M"), a, b): hypervisor.ErrBusy,
	} {
		require.ErrorIs(t, v.SetConfig(within(t), change, false), is, change)
		assert.Equal(t, string(kept), v.Config().String(), "%s is refused", change)
	}
	assert.EqualValues(t, 3<<20, bytes(a))
	assert.EqualValues(t, 2<<20, bytes(b))

	// Where one of two does not grow, the config has what the other got.
	require.NoError(t, os.Chmod(b, 0o600))
	require.NoError(t, os.Rename(b, b+".away"))
	require.NoError(t, os.Symlink("nowhere", b))
	require.Error(t, v.SetConfig(within(t), disks("5M", "5M")+"\nmemory=1G", false))
	assert.Contains(t, v.Config().String(), "size:5M\n")
	assert.Contains(t, v.Config().String(), "size:2M\n")
	assert.NotContains(t, v.Config().String(), "memory=1G", "what comes after it is not done")
	assert.EqualValues(t, 5<<20, bytes(a))
	require.NoError(t, os.Remove(b))
	require.NoError(t, os.Rename(b+".away", b))

	// A size that is left out takes the image as it is.
	require.NoError(t, v.SetConfig(within(t), strings.ReplaceAll(disks("5M", "2M"), ",size:2M", ""), false))
	assert.EqualValues(t, 2<<20, bytes(b))

	// A VMM that does not answer costs nothing but the time.
	guest(t, w, v).Inject(sim.Fault{Kind: sim.FaultRefuse, Verb: sim.VerbDisk})
	kept, err = os.ReadFile(filepath.Join(v.dir, configFile))
	require.NoError(t, err)
	require.Error(t, v.SetConfig(within(t), disks("6M", "6M"), false))
	assert.Equal(t, string(kept), v.Config().String())
	assert.EqualValues(t, 5<<20, bytes(a))

	// At rest a smaller size is taken, and the start that would shrink the image refused.
	require.NoError(t, v.Kill(within(t)))
	require.NoError(t, v.SetConfig(within(t), disks("1M", "2M"), false))
	err = v.Start(within(t))
	require.ErrorIs(t, err, hypervisor.ErrInvalid)
	assert.ErrorContains(t, err, "never shrinks, so write size:5242880")
	assert.EqualValues(t, 5<<20, bytes(a))
	require.NoError(t, v.SetConfig(within(t), disks("8M", "2M"), false))
	require.NoError(t, v.Start(within(t)))
	assert.EqualValues(t, 8<<20, bytes(a), "a start lets it grow")
}
