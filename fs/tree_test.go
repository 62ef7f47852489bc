package fs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/machine"
)

// reader is a fid on a stream that is read in the background.
type reader struct {
	t    *testing.T
	data chan string
}

// follow opens a stream and reads it until the connection ends.
func follow(t *testing.T, root p9.File, path string) *reader {
	t.Helper()
	f := mustOpen(t, root, path, p9.ReadOnly)
	r := &reader{t, make(chan string, 100)}
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(r.data)
		buf := make([]byte, 4096)
		for off := int64(0); ; {
			n, err := f.ReadAt(buf, off)
			if n == 0 || err != nil && !errors.Is(err, io.EOF) {
				return
			}
			off += int64(n)
			r.data <- string(buf[:n])
		}
	})
	return r
}

// expect reads until the text has come.
func (r *reader) expect(text string) string {
	r.t.Helper()
	var got strings.Builder
	deadline := time.After(30 * time.Second)
	for {
		select {
		case s, ok := <-r.data:
			got.WriteString(s)
			if strings.Contains(got.String(), text) {
				return got.String()
			}
			require.True(r.t, ok, "the stream ended without %q, after %q", text, got.String())
		case <-deadline:
			require.Fail(r.t, "nothing came", "want %q, got %q", text, got.String())
		}
	}
}

func TestLife(t *testing.T) {
	root := client(t, New(newHost(t), Options{Version: "1.2"}))
	assert.Contains(t, cat(t, root, "version"), "vmfs 1.2\n9P2000.L 9P2000.u 9P2000\n")
	assert.Contains(t, cat(t, root, "version"), "sim 1\n")
	assert.Contains(t, cat(t, root, "ctl"), "create NAME\n")
	assert.Equal(t, "pause\nsnapshot\nmemory\nvsock\n", cat(t, root, "backends/sim/capabilities"))
	assert.Equal(t, "1\n", cat(t, root, "backends/sim/version"))
	all := follow(t, root, "events")

	require.NoError(t, mkdir(t, root, "web"))
	all.expect(" web created")
	assert.Equal(t, "created\n", cat(t, root, "web/state"))
	assert.Equal(t, "start\nset KEY=VALUE…\nwait STATE [DURATION]\n", without(cat(t, root, "web/ctl"), "restore", "memory"))
	mustWrite(t, root, "web/config", "memory=1G\nhotplug=1G")
	assert.Contains(t, cat(t, root, "web/config"), "hotplug=1G\n")

	wait, events, console := follow(t, root, "web/wait"), follow(t, root, "web/events"), follow(t, root, "web/console")
	mustWrite(t, root, "web/ctl", "start")
	wait.expect("running\n")
	_, more := <-wait.data
	assert.False(t, more, "a wait file ends after one state")
	events.expect(" started")
	console.expect("ready")
	assert.Equal(t, "1073741824\n", cat(t, root, "web/memory"))
	mustWrite(t, root, "web/memory", "1536M")
	events.expect("actual=1610612736")
	mustWrite(t, root, "web/ctl", "memory 1G wait 5s\n# several lines\npause")
	events.expect(" paused state=paused")
	assert.Equal(t, "paused\n", cat(t, root, "web/state"))
	assert.Contains(t, cat(t, root, "web/ctl"), "resume\n")
	mustWrite(t, root, "web/ctl", "resume")
	mustWrite(t, root, "web/console", "echo forty$")
	console.expect("forty$")
	assert.Contains(t, cat(t, root, "web/info"), "hypervisor=sim\n")
	mustWrite(t, root, "web/ctl", "set memory=2G")
	assert.Contains(t, cat(t, root, "web/info"), "memory.target=2147483648\n")
	mustWrite(t, root, "web/ctl", "poweroff")
	mustWrite(t, root, "web/ctl", "wait shutdown 10s")
	assert.Contains(t, cat(t, root, "web/info"), "reason=guest-shutdown\n")
	all.expect(" web shutdown ")

	mustWrite(t, root, "ctl", "create db\ndelete db")
	require.NoError(t, root.UnlinkAt("web", 0x200))
	events.expect(" deleted")
	_, err := open(t, root, "web/state", p9.ReadOnly)
	assert.Equal(t, linux.ENOENT, linux.ExtractErrno(err))
}

// without drops lines that begin with one of the words.
func without(text string, words ...string) string {
	var kept []string
	for _, line := range strings.SplitAfter(text, "\n") {
		drop := false
		for _, w := range words {
			drop = drop || strings.HasPrefix(line, w)
		}
		if !drop {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "")
}

// TestFidsOfADeletedVM holds that a fid on a VM that is gone says so, and does
// not act on another of the same name.
func TestFidsOfADeletedVM(t *testing.T) {
	root := client(t, New(newHost(t), Options{}))
	require.NoError(t, mkdir(t, root, "web"))
	ctl := mustOpen(t, root, "web/ctl", p9.WriteOnly)
	state := mustOpen(t, root, "web/state", p9.ReadOnly)
	events := follow(t, root, "web/events")
	require.NoError(t, root.UnlinkAt("web", 0x200))
	events.expect(" deleted")
	_, more := <-events.data
	assert.False(t, more, "the events end with the VM")
	require.NoError(t, mkdir(t, root, "web"))
	_, err := ctl.WriteAt([]byte("start"), 0)
	assert.Equal(t, linux.ENOENT, linux.ExtractErrno(err))
	_, err = state.ReadAt(make([]byte, 10), 0)
	assert.Equal(t, linux.ENOENT, linux.ExtractErrno(err))
	assert.Equal(t, "created\n", cat(t, root, "web/state"))
}

func TestConfigReplaceAndMerge(t *testing.T) {
	root := client(t, New(newHost(t), Options{}))
	require.NoError(t, mkdir(t, root, "web"))
	mustWrite(t, root, "web/config", "vcpus=2\nkernel=/k")

	// As v9fs does a shell's >: open, truncate through another fid, write.
	replace := func(texts ...string) error {
		f := mustOpen(t, root, "web/config", p9.WriteOnly)
		other := sub2(t, root, "web", "config")
		require.NoError(t, other.SetAttr(p9.SetAttrMask{Size: true, CTime: true, MTime: true}, p9.SetAttr{}))
		off := int64(0)
		for _, text := range texts {
			n, err := f.WriteAt([]byte(text), off)
			if err != nil {
				return err
			}
			off += int64(n)
		}
		return nil
	}
	require.NoError(t, replace("memory=1G\n", "vcpus=3\n"), "one redirection, two writes")
	config := cat(t, root, "web/config")
	assert.Contains(t, config, "memory=1G\n")
	assert.Contains(t, config, "vcpus=3\n")
	assert.NotContains(t, config, "kernel=")
	assert.Error(t, replace("vcpus=none\n"))
	assert.Equal(t, config, cat(t, root, "web/config"), "a truncation whose write fails loses nothing")
	require.NoError(t, replace())
	assert.Equal(t, config, cat(t, root, "web/config"), "neither does one without a write")
	mustWrite(t, root, "web/config", "kernel=/k2")
	assert.Contains(t, cat(t, root, "web/config"), "vcpus=3\n", "the next write merges")

	f := mustOpen(t, root, "web/config", p9.WriteOnly|openTruncate)
	_, err := f.WriteAt([]byte("vcpus=4\n"), 0)
	require.NoError(t, err)
	assert.NotContains(t, cat(t, root, "web/config"), "kernel=", "an open with O_TRUNC replaces too")
}

func TestClone(t *testing.T) {
	root := client(t, New(newHost(t), Options{}))
	f := mustOpen(t, root, "clone", p9.ReadWrite)
	buf := make([]byte, 2)
	n, err := f.ReadAt(buf, 0)
	require.NoError(t, err)
	rest := make([]byte, 10)
	m, err := f.ReadAt(rest, int64(n))
	require.NoError(t, err)
	name := strings.TrimSpace(string(buf[:n]) + string(rest[:m]))
	n, err = f.ReadAt(rest, int64(n+m))
	assert.True(t, n == 0 && (err == nil || errors.Is(err, io.EOF)), "%d %v", n, err)
	_, err = f.WriteAt([]byte("start"), 4)
	require.NoError(t, err)
	assert.Equal(t, "running\n", cat(t, root, name+"/state"))
	assert.NotEqual(t, name, strings.TrimSpace(cat(t, root, "clone")))
}

// TestNamesOfFiles holds that no VM gets the name of a file of the root, whichever way
// it is made.
func TestNamesOfFiles(t *testing.T) {
	host := newHost(t)
	root := client(t, New(host, Options{}))
	for _, name := range RootNames() {
		assert.Equal(t, linux.EEXIST, errnoFrom(mkdir(t, root, name)), "mkdir %s", name)
		assert.Equal(t, linux.EEXIST, errnoFrom(write(t, root, "ctl", "create "+name)), "create %s", name)
	}
	assert.Empty(t, host.VMs())
}

// TestListing holds that names are neither lost nor doubled when VMs come and go
// between two reads of the directory, that qid paths are unique, and that nothing
// reports a length.
func TestListing(t *testing.T) {
	host := newHost(t)
	root := client(t, New(host, Options{}))
	for i := range 50 {
		require.NoError(t, mkdir(t, root, fmt.Sprintf("vm-%02d", i)))
	}
	_, dir, err := root.Walk(nil)
	require.NoError(t, err)
	_, _, err = dir.Open(p9.ReadOnly)
	require.NoError(t, err)
	seen := map[string]bool{}
	for off := uint64(0); ; {
		ents, err := dir.Readdir(off, 200)
		if len(ents) == 0 || err != nil {
			break
		}
		for _, e := range ents {
			assert.False(t, seen[e.Name], e.Name)
			seen[e.Name] = true
			off = e.Offset
		}
		if off > 10 && host.Delete(context.Background(), "vm-00") == nil {
			require.NoError(t, mkdir(t, root, "aaa"))
		}
	}
	assert.Len(t, seen, 50+len(rootKind.rows))

	paths := map[uint64]string{}
	var walk func(dir p9.File, at string)
	walk = func(dir p9.File, at string) {
		_, f, err := dir.Walk(nil)
		require.NoError(t, err)
		_, _, err = f.Open(p9.ReadOnly)
		require.NoError(t, err)
		ents, err := f.Readdir(0, 65536)
		require.NoError(t, err)
		for _, e := range ents {
			name := at + "/" + e.Name
			assert.Empty(t, paths[e.QID.Path], name)
			paths[e.QID.Path] = name
			qids, child, err := dir.Walk([]string{e.Name})
			require.NoError(t, err, name)
			assert.Equal(t, e.QID, qids[0], name)
			qid, _, attr, err := child.GetAttr(p9.AttrMaskAll)
			require.NoError(t, err)
			assert.Equal(t, e.QID.Path, qid.Path)
			assert.Zero(t, attr.Size, name)
			assert.Equal(t, e.Type == p9.TypeDir, attr.Mode.IsDir(), name)
			if e.Type == p9.TypeDir {
				walk(child, name)
			}
			child.Close()
		}
		f.Close()
	}
	walk(root, "")
	assert.Greater(t, len(paths), 50*len(vmKind.rows))
}

// TestCancel holds that what waits ends with its context.
func TestCancel(t *testing.T) {
	host := newHost(t)
	root, err := New(host, Options{}).Attach()
	require.NoError(t, err)
	_, err = host.Create("web", machine.Owner{Mode: 0o700})
	require.NoError(t, err)
	for _, name := range []string{"wait", "events", "console"} {
		_, f, err := root.Walk([]string{"web", name})
		require.NoError(t, err)
		_, _, err = f.Open(p9.ReadOnly)
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		r := f.(interface {
			ReadContext(context.Context, []byte, int64) (int, error)
		})
		_, err = r.ReadContext(ctx, make([]byte, 10), 0)
		cancel()
		assert.ErrorIs(t, err, context.DeadlineExceeded, name)
		require.NoError(t, f.Close())
	}
	vm, _ := host.VM("web")
	require.NoError(t, vm.SetConfig(context.Background(), "sim.fault=hang@snapshot", false))
	require.NoError(t, vm.Start(context.Background()))
	_, d, err := root.Walk([]string{"web", "snapshots"})
	require.NoError(t, err)
	short, done := context.WithTimeout(context.Background(), 10*time.Millisecond)
	_, err = d.(*dir).MkdirContext(short, "one", 0o700, p9.NoUID, p9.NoGID)
	done()
	assert.ErrorIs(t, err, context.DeadlineExceeded, "mkdir of a snapshot")
	require.NoError(t, vm.Pause(context.Background()))

	_, f, err := root.Walk([]string{"web", "ctl"})
	require.NoError(t, err)
	_, _, err = f.Open(p9.WriteOnly)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(10*time.Millisecond, cancel)
	_, err = f.(*textFile).WriteContext(ctx, []byte("wait running"), 0)
	assert.Equal(t, linux.EINTR, linux.ExtractErrno(errnoOf(err)))
}

func errnoOf(err error) error {
	var errno linux.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// TestQIDVersion holds that a qid's version counts changes.
func TestQIDVersion(t *testing.T) {
	host := newHost(t)
	root, err := New(host, Options{}).Attach()
	require.NoError(t, err)
	version := func(path ...string) uint32 {
		qids, _, err := root.Walk(path)
		require.NoError(t, err)
		return qids[len(qids)-1].Version
	}
	before := version()
	vm, err := host.Create("web", machine.Owner{Mode: 0o700})
	require.NoError(t, err)
	assert.NotEqual(t, before, version(), "of the root, by a new VM")
	before = version("web", "state")
	assert.Equal(t, before, version("web", "state"))
	require.NoError(t, vm.Start(context.Background()))
	assert.NotEqual(t, before, version("web", "state"), "of a VM's file, by a start")
	before = version()
	require.NoError(t, vm.Kill(context.Background()))
	assert.Equal(t, before, version(), "of the root, by nothing of a VM's own")
	require.NoError(t, host.Delete(context.Background(), "web"))
	assert.NotEqual(t, before, version(), "of the root, by a VM's end")
}
