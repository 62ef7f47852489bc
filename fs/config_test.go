package fs

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/machine"
	"vmfs/machine/config"
)

// configTree is a tree with a VM web whose config is set, and a client of it.
func configTree(t *testing.T) p9.File {
	t.Helper()
	root := client(t, New(newHost(t), Options{}))
	require.NoError(t, mkdir(t, root, "web"))
	mustWrite(t, root, "web/config", "vcpus=2\nkernel=/k")
	return root
}

// longConfig is a configuration of more than one message.
func longConfig(disks int) string {
	var b strings.Builder
	b.WriteString("vcpus=3\nmemory=1G\n")
	for i := range disks {
		fmt.Fprintf(&b, "disk=path:/images/of/some/length/%04d.img,format:raw\n", i)
	}
	return b.String()
}

// TestConfigInPieces writes a configuration in pieces of every size, as clients do
// whose messages are short: it is set when its lines are whole, and as one.
func TestConfigInPieces(t *testing.T) {
	text := longConfig(40)
	for _, size := range []int{1, 7, 100, 512, len(text) - 1, len(text)} {
		for _, how := range []string{">", ">>"} {
			root := configTree(t)
			mode := p9.WriteOnly
			if how == ">" {
				mode |= openTruncate
			}
			f := mustOpen(t, root, "web/config", mode)
			for off := 0; off < len(text); off += size {
				piece := text[off:min(off+size, len(text))]
				n, err := f.WriteAt([]byte(piece), int64(off))
				require.NoError(t, err, "%s, %d at %d", how, size, off)
				require.Equal(t, len(piece), n)
			}
			got := cat(t, root, "web/config")
			assert.Contains(t, got, "vcpus=3\n")
			assert.Equal(t, 40, strings.Count(got, "disk="), "%s in pieces of %d", how, size)
			assert.Equal(t, how == ">>", strings.Contains(got, "kernel="))
		}
	}
}

// TestConfigEndsWithoutALine holds that a last line without an end counts at the
// clunk or the sync, which then says what is wrong with it.
func TestConfigEndsWithoutALine(t *testing.T) {
	root := configTree(t)
	before := cat(t, root, "web/config")
	for _, c := range []struct {
		text string
		want linux.Errno
	}{
		{"vcpus=4", 0},
		{"vcpus=5\nmemory=1G", 0},
		{"vcpus=none", linux.EINVAL},
		{"vcpus=6\nmem", linux.EINVAL},
	} {
		for _, end := range []string{"clunk", "sync"} {
			mustWrite(t, root, "web/config", before)
			f := mustOpen(t, root, "web/config", p9.WriteOnly)
			mustWriteTo(t, f, c.text)
			assert.Equal(t, before, cat(t, root, "web/config"), "%q is not whole yet", c.text)
			err := f.FSync()
			if end == "clunk" {
				f = mustOpen(t, root, "web/config", p9.WriteOnly)
				mustWrite(t, root, "web/config", before)
				mustWriteTo(t, f, c.text)
				err = f.Close()
			}
			assert.Equal(t, c.want, errnoFrom(err), "%s: %q", end, c.text)
			if c.want == 0 {
				assert.Contains(t, cat(t, root, "web/config"), c.text[:7]+"\n")
				continue
			}
			assert.Equal(t, before, cat(t, root, "web/config"), "%q is not set in part", c.text)
			assert.Contains(t, cat(t, root, "web/error"), "config line")
		}
	}
}

// TestConfigReplacedAsAWhole has the second of two writes fail: what the first
// replaced comes back, and what follows is not set either.
func TestConfigReplacedAsAWhole(t *testing.T) {
	root := configTree(t)
	before := cat(t, root, "web/config")
	for name, texts := range map[string][]string{
		"the first":  {"frob=1\n", "vcpus=4\n"},
		"the second": {"vcpus=4\n", "frob=1\n", "memory=1G\n"},
		"a torn one": {"vcpus=4\nfr", "ob=1\nmemory=1G\n", "memory=2G\n"},
		"the last":   {"vcpus=4\n", "memory=1G\n", "frob=1"},
	} {
		f := mustOpen(t, root, "web/config", p9.WriteOnly|openTruncate)
		failed := false
		for _, text := range texts {
			_, err := f.WriteAt([]byte(text), 0)
			if failed {
				assert.Equal(t, linux.EINVAL, errnoFrom(err), "%s: after one that failed", name)
			}
			failed = failed || err != nil
		}
		assert.Equal(t, linux.EINVAL, errnoFrom(f.Close()), name)
		assert.Equal(t, before, cat(t, root, "web/config"), name)
		assert.Contains(t, cat(t, root, "web/error"), "frob", name)
	}
	// Merged, each write counts by itself.
	f := mustOpen(t, root, "web/config", p9.WriteOnly)
	for text, want := range map[string]linux.Errno{"vcpus=4\n": 0, "frob=1\n": linux.EINVAL, "memory=1G\n": 0} {
		_, err := f.WriteAt([]byte(text), 0)
		assert.Equal(t, want, errnoFrom(err), text)
	}
	require.NoError(t, f.Close())
	assert.Contains(t, cat(t, root, "web/config"), "vcpus=4\nmemory=1G\nkernel=/k\n")
}

// TestConfigLineWithoutEnd bounds what is kept of a line.
func TestConfigLineWithoutEnd(t *testing.T) {
	root := configTree(t)
	before := cat(t, root, "web/config")
	f := mustOpen(t, root, "web/config", p9.WriteOnly|openTruncate)
	err := put(f, make([]byte, config.MaxText+1))
	assert.Equal(t, linux.EINVAL, errnoFrom(err))
	assert.Equal(t, linux.EINVAL, errnoFrom(f.Close()))
	assert.Equal(t, before, cat(t, root, "web/config"))
	assert.Contains(t, cat(t, root, "web/error"), "a configuration can have 262144")
}

// TestConfigTooLarge writes settings as large as a message can be: they are refused before
// they are looked at, and what the VM says of it is short.
func TestConfigTooLarge(t *testing.T) {
	host := newHost(t)
	root := attach(t, New(host, Options{}), peer(0, 0), "", noUser)
	vm, err := host.Create("web", machine.Owner{Mode: 0o700})
	require.NoError(t, err)
	before := vm.Config().String()
	const size = 950_000
	for file, texts := range map[string][]string{
		"config": {
			"disk=path:/" + strings.Repeat("a", size) + "\n", "disk=" + strings.Repeat("path:/a,", size/8) + "\n", strings.Repeat("disk=path:/a\n", size/13),
			strings.Repeat("\n", size), "disk=path:/" + strings.Repeat(",,", size/2),
		},
		"ctl": {
			"set disk=path:/" + strings.Repeat("a", size), "set" + strings.Repeat(" disk=path:/a", size/13), "restore x" + strings.Repeat(" disk=", size/6),
			strings.Repeat("set vcpus=1\n", size/12), "set " + strings.Repeat("x", size), "wait " + strings.Repeat("x", size), "memory " + strings.Repeat("9", size),
		},
		"memory": {strings.Repeat("9", size)},
	} {
		for _, text := range texts {
			soon(t, "what is refused", func() {
				f := mustWalk(t, root, "web", file)
				_, _, err := f.Open(p9.ReadWrite)
				require.NoError(t, err)
				_, err = f.(interface {
					WriteContext(ctx context.Context, p []byte, off int64) (int, error)
				}).WriteContext(t.Context(), []byte(text), 0)
				assert.ErrorIs(t, err, linux.EINVAL, "%s: %.30s", file, text)
				assert.Less(t, len(vm.LastError()), 5000, "%s: %.30s", file, text)
				_ = f.Close() // what is pending is refused with it
			})
			assert.Equal(t, before, vm.Config().String(), "%s: %.30s", file, text)
		}
	}
}

// TestConfigOfAClientThatHungUp: what it has not finished is not set.
func TestConfigOfAClientThatHungUp(t *testing.T) {
	host := newHost(t)
	tree := New(host, Options{})
	root := client(t, tree)
	require.NoError(t, mkdir(t, root, "web"))
	before := cat(t, root, "web/config")
	w := dialWire(t, tree)
	w.exchange(walkTo(0, 5, "web", "config"), 1)
	w.exchange(frame(12, 0, uint32(5), uint32(1)), 1)
	torn := []byte("vcpus=4\nkernel=/boot/vm") // would pass
	w.exchange(frame(118, 0, uint32(5), uint64(0), uint32(len(torn)), torn), 1)
	require.NoError(t, w.conn.Close())
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	require.NoError(t, w.srv.Shutdown(ctx), "it has put the client's files away")
	assert.Equal(t, before, cat(t, root, "web/config"))
}

// Who has configs open to write them has 512 KiB of each, of the 128 MiB of a user.
func TestConfigOpenCost(t *testing.T) {
	host := newHost(t)
	root := client(t, New(host, Options{}))
	require.NoError(t, mkdir(t, root, "web"))
	open := func() error {
		_, err := open(t, root, "web/config", p9.WriteOnly)
		return err
	}
	for range 256 {
		require.NoError(t, open())
	}
	require.ErrorIs(t, open(), linux.ENFILE)
	mustOpen(t, root, "web/config", p9.ReadOnly)
}
