package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/guest/guesttest"
)

// counted is a line of the guest in backends/qemu/testdata/guest.s: how often it has
// read its disk, and what was there.
var counted = regexp.MustCompile(`guest ([0-9a-f]{4}) ([a-z]+)\r`)

// TestMovedState takes a state directory of an earlier vmfs, from a host that lost its
// power, and the images of its VMs' disks, and puts them elsewhere: what was saved
// there goes on here. Then the same is done with what this vmfs has saved.
func TestMovedState(t *testing.T) {
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		guesttest.Missing(t, "QEMU is missing: apt-get install qemu-system-x86")
	}
	s := newServer(t)
	out, err := exec.Command("tar", "-xzf", "../../backends/qemu/testdata/old-state.tar.gz", "-C", s.dir).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NoError(t, os.Rename(filepath.Join(s.dir, "vmfs"), s.state))
	images := filepath.Join(s.dir, "images")
	disks := func() []string {
		return []string{"disk=path:" + filepath.Join(images, "a.img"), "disk=path:" + filepath.Join(images, "b.img") + ",readonly:yes"}
	}
	restore := func(name string, words ...string) {
		t.Helper()
		s.must("write", "web/ctl", strings.Join(append([]string{"restore", name}, words...), " "))
		require.Equal(t, "paused", s.must("cat", "web/state"))
	}
	word := func(text string) {
		t.Helper()
		f, err := os.OpenFile(filepath.Join(images, "a.img"), os.O_WRONLY, 0)
		require.NoError(t, err)
		_, err = f.WriteAt([]byte(text), 512)
		require.NoError(t, err)
		require.NoError(t, f.Close())
	}
	console := filepath.Join(s.state, "vms", "web", "console.log")
	// goesOn resumes the guest and returns the first number that it counts, once it has
	// counted on.
	goesOn := func(verb, saw string) int {
		t.Helper()
		fi, err := os.Stat(console)
		require.NoError(t, err)
		s.must("write", "web/ctl", verb)
		var lines [][][]byte
		require.Eventually(t, func() bool {
			b, err := os.ReadFile(console)
			require.NoError(t, err)
			_, b, _ = bytes.Cut(b[fi.Size():], []byte("\n")) // it may have stood still within a line
			lines = counted.FindAllSubmatch(b, -1)
			return len(lines) > 3
		}, patience, 20*time.Millisecond, "the guest does not go on")
		var first int64
		for i, l := range lines {
			n, err := strconv.ParseInt(string(l[1]), 16, 32)
			require.NoError(t, err)
			if i == 0 {
				first = n
			}
			assert.Equal(t, first+int64(i), n)
			assert.Equal(t, saw, string(l[2]))
		}
		return int(first)
	}

	s.start()
	assert.Equal(t, "shutdown", s.must("cat", "web/state"))
	assert.Contains(t, s.refused("write", "web/ctl", "restore one"), "/srv/images/b.img", "the disks are not where they were")
	assert.Contains(t, s.refused("write", "web/ctl", "restore one memory=32M "+strings.Join(disks(), " ")), "memory is part of the saved VM")
	assert.Contains(t, s.refused("write", "web/ctl", "restore one vcpus=2 "+strings.Join(disks(), " ")), "virtual CPUs")
	assert.Contains(t, s.refused("write", "web/ctl", "restore one "+disks()[0]), "disks")
	assert.Contains(t, s.must("cat", "web/config"), "/srv/images/a.img", "a restore that failed changes nothing")
	word("later")
	restore("one", disks()...)
	assert.NotContains(t, s.must("cat", "web/config"), "/srv/")
	assert.Greater(t, goesOn("resume", "hello"), 5, "it has not begun anew")
	s.must("write", "toy/ctl", "restore one disk=path:"+filepath.Join(images, "b.img")+",readonly:yes")
	assert.Equal(t, "paused", s.must("cat", "toy/state"))
	s.must("write", "toy/ctl", "kill")

	// What is saved of it now is as it was: the guest's devices are where they were.
	s.must("write", "web/ctl", "snapshot two")
	s.must("write", "web/ctl", "kill")
	manifest, err := os.ReadFile(filepath.Join(s.state, "vms", "web", "snapshots", "two", "vmm", "qemu-snapshot.json"))
	require.NoError(t, err)
	assert.Contains(t, string(manifest), `"layout": 0,`)
	restore("two")
	assert.Greater(t, goesOn("resume", "hello"), 8)
	s.must("write", "web/ctl", "kill")

	// A new VM has the new layout, and boots from it.
	word("later")
	assert.Less(t, goesOn("start", "later"), 5)
	s.must("write", "web/ctl", "snapshot three")
	s.must("write", "web/ctl", "kill")
	s.kill()
	moved := filepath.Join(s.dir, "elsewhere")
	require.NoError(t, os.Mkdir(moved, 0o700))
	require.NoError(t, os.Rename(s.state, filepath.Join(moved, "state")))
	require.NoError(t, os.Rename(images, filepath.Join(moved, "images")))
	s.state, images = filepath.Join(moved, "state"), filepath.Join(moved, "images")
	console = filepath.Join(s.state, "vms", "web", "console.log")
	s.start()
	word("never")
	restore("three", disks()...)
	assert.Greater(t, goesOn("resume", "later"), 3)
	s.must("write", "web/ctl", "kill")
}
