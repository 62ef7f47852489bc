package main

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/guest/guesttest"
)

// manyVMs is how many VMs TestMany runs at once. In an emulated host, a start takes a second
// of its one processor.
var manyVMs = func() int {
	if os.Getenv("VMFS_TESTHOST") != "" {
		return 12
	}
	return 50
}()

// TestMany starts many real VMs at once, lists them, and kills the server: the
// next one finds them all. The times that it prints are of the test's own
// binary, which may have the race detector; bench_vm_test.go has those of vmfs.
func TestMany(t *testing.T) {
	s := newServer(t)
	r := runMany(s)
	t.Logf("%d VMs: %v from all start commands to the last answer; ls %v, cat */state %v (each a process); found again after %v",
		manyVMs, r.start, r.ls, r.cat, r.restart)
}

// manyResult is how long the parts of TestMany took.
type manyResult struct{ start, ls, cat, restart time.Duration }

// runMany does TestMany on a server that was not started yet, and ends its VMs.
// The VMs have a kernel, and are paused soon after their start: what many guests
// do at once is not the question.
func runMany(s *server) manyResult {
	t := s.t
	t.Helper()
	kernel, _ := guesttest.Image(t)
	s.start()
	var r manyResult
	var begin time.Time
	lap := func(d *time.Duration) { *d = time.Since(begin).Round(100 * time.Microsecond) }

	names := make([]string, manyVMs)
	for i := range names {
		names[i] = fmt.Sprintf("vm%02d", i)
	}
	root := s.attach()
	defer root.Close()
	for _, name := range names {
		require.NoError(t, root.mkdir(name))
		require.NoError(t, root.send(name+"/config", "memory=32M\nkernel="+kernel+"\n"+hypervisorKey()))
	}

	begin = time.Now()
	var all sync.WaitGroup
	errs := make([]error, manyVMs)
	for i, name := range names {
		all.Go(func() {
			if errs[i] = root.send(name+"/ctl", "start"); errs[i] == nil {
				errs[i] = root.send(name+"/ctl", "pause")
			}
		})
	}
	all.Wait()
	lap(&r.start)
	for i, err := range errs {
		require.NoError(t, err, names[i])
	}

	begin = time.Now()
	listed := strings.Fields(s.must("ls"))
	lap(&r.ls)
	assert.Subset(t, listed, names)
	states := func() []string { return catAll(s, names, "state") }
	begin = time.Now()
	got := states()
	lap(&r.cat)
	require.Len(t, got, manyVMs)
	for i, state := range got {
		assert.Equal(t, "paused", state, names[i])
	}
	pids := catAll(s, names, "pid")
	assert.Len(t, unique(pids), manyVMs, "each has a process of its own")
	assert.Len(t, s.vmms(), manyVMs)

	s.kill()
	begin = time.Now()
	s.start()
	lap(&r.restart)
	assert.Equal(t, got, states(), "no VM was lost")
	assert.Equal(t, pids, catAll(s, names, "pid"), "and each has the process that it had")

	again := s.attach()
	defer again.Close()
	for i, name := range names {
		all.Go(func() { errs[i] = again.send(name+"/ctl", "kill") })
	}
	all.Wait()
	for i, err := range errs {
		require.NoError(t, err, names[i])
	}
	assert.Empty(t, s.vmms())
	return r
}

// catAll returns what one file of each VM says, read by one command.
func catAll(s *server, vms []string, file string) []string {
	args := []string{"cat"}
	for _, name := range vms {
		args = append(args, name+"/"+file)
	}
	return strings.Fields(s.must(args...))
}

func unique(all []string) map[string]bool {
	set := make(map[string]bool)
	for _, s := range all {
		set[s] = true
	}
	return set
}
