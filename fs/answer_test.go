package fs

import (
	"strings"
	"testing"
	"time"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestCtlTellsWhy reads every ctl there is after writes that failed and that did not:
// it is the open file's own failure, whatever others do meanwhile, from any offset on.
func TestCtlTellsWhy(t *testing.T) {
	root, _ := vsockTree(t, Options{})
	_, conv := converse(t, root)
	for _, path := range []string{"ctl", "web/ctl", "clone", "web/vsock/clone", conv + "/ctl"} {
		f, other := mustOpen(t, root, path, p9.ReadWrite), mustOpen(t, root, path, p9.ReadWrite)
		usual, err := readAll(f)
		require.NoError(t, err, path)
		assert.NotEmpty(t, usual, path)
		read := func(f p9.File, off int64) string {
			var text []byte
			buf := make([]byte, 20) // as a shell's, shorter than the text
			for {
				n, err := f.ReadAt(buf, off)
				if n == 0 {
					require.True(t, err == nil || err.Error() == "EOF", "%s: %v", path, err)
					return string(text)
				}
				text = append(text, buf[:n]...)
				off += int64(n)
			}
		}
		for _, off := range []int64{0, 4, 70000} { // where a shell's descriptor stands by then
			_, err = f.WriteAt([]byte("frob 12"), off)
			assert.Equal(t, linux.EINVAL, errnoFrom(err), path)
			_, err = other.WriteAt([]byte("other 13"), off)
			assert.Equal(t, linux.EINVAL, errnoFrom(err), path)
			got := read(f, off)
			assert.Contains(t, got, "frob 12", path)
			assert.True(t, strings.HasSuffix(got, "\n"), path)
			assert.NotContains(t, got, "other", path)
			assert.Contains(t, read(other, off), "other 13", path)
			assert.Equal(t, got, read(f, 0), "%s: again from its start", path)
		}
		mustWriteTo(t, f, "# well\n")
		assert.Equal(t, usual, read(f, 0), "%s: after a write that did not fail", path)
		assert.Contains(t, read(other, 0), "other 13", path)
	}
}

// TestCloneMakesAtOpen holds that opening clone makes the VM, once.
func TestCloneMakesAtOpen(t *testing.T) {
	host := newHost(t)
	root := client(t, New(host, Options{}))
	_, f, err := root.Walk([]string{"clone"})
	require.NoError(t, err)
	_, _, _, err = f.GetAttr(p9.AttrMaskAll)
	require.NoError(t, err)
	assert.Empty(t, host.VMs(), "a walk makes none")
	_, _, err = f.Open(p9.ReadWrite)
	require.NoError(t, err)
	require.Len(t, host.VMs(), 1)
	vm := host.VMs()[0]
	mustWriteTo(t, f, "set vcpus=3") // before it was read
	assert.Equal(t, 3, vm.Config().VMConfig().VCPUs)
	for range 2 {
		name, err := readAll(f)
		require.NoError(t, err)
		assert.Equal(t, vm.Name()+"\n", name)
	}
	require.NoError(t, f.Close())
	assert.Len(t, host.VMs(), 1)
}

// TestMkdirTakesASnapshot holds mkdir in snapshots to what the verb does.
func TestMkdirTakesASnapshot(t *testing.T) {
	root := client(t, New(newHost(t), Options{}))
	require.NoError(t, mkdir(t, root, "web"))
	dir := sub2(t, root, "web", "snapshots")
	assert.Equal(t, linux.EBUSY, errnoFrom(mkdir(t, dir, "one")), "it does not run")
	mustWrite(t, root, "web/ctl", "start")
	events := follow(t, root, "web/events")
	qid, err := dir.Mkdir("one", 0o755, p9.NoUID, p9.NoGID)
	require.NoError(t, err)
	events.expect(" snapshot name=one done=taken")
	qids, one, err := dir.Walk([]string{"one"})
	require.NoError(t, err)
	defer one.Close()
	assert.Equal(t, qid.Path, qids[0].Path)
	assert.Equal(t, cat(t, root, "web/config"), cat(t, root, "web/snapshots/one/config"))
	assert.Equal(t, linux.EEXIST, errnoFrom(mkdir(t, dir, "one")))
	assert.Equal(t, linux.EINVAL, errnoFrom(mkdir(t, dir, "-x")))
	assert.Contains(t, cat(t, root, "web/error"), "not a valid name")
	assert.Equal(t, linux.EPERM, errnoFrom(mkdir(t, one, "two")))
	mustWrite(t, root, "web/ctl", "kill\nrestore one\nresume\nkill")

	// It blocks, and can be flushed.
	require.NoError(t, mkdir(t, root, "slow"))
	mustWrite(t, root, "slow/config", "sim.fault=hang@snapshot")
	mustWrite(t, root, "slow/ctl", "start")
	done := make(chan error, 1)
	slow := sub2(t, root, "slow", "snapshots")
	go func() { done <- mkdir(t, slow, "two") }()
	require.Eventually(t, func() bool {
		return strings.Contains(cat(t, root, "slow/info"), "busy=snapshot")
	}, 10*time.Second, time.Millisecond)
	mustWrite(t, root, "slow/ctl", "cancel")
	assert.Equal(t, linux.EINTR, errnoFrom(<-done))
	_, err = open(t, root, "slow/snapshots/two", p9.ReadOnly)
	assert.Equal(t, linux.ENOENT, errnoFrom(err))
}
