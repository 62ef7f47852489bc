package hypervisortest

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
)

// smaller is a size below the base that a guest can do with, on a step.
func (vm *VM) smaller() int64 {
	step := vm.suite.b.MemoryStep
	return vm.Config.MemoryBytes - vm.Config.MemoryBytes/4/step*step
}

// resize sets the memory and checks that the guest has it.
func (vm *VM) resize(t testing.TB, bytes int64) {
	t.Helper()
	timeout := vm.suite.b.Timeout
	ctx, cancel := context.WithTimeout(context.Background(), 2*timeout)
	defer cancel()
	require.NoError(t, vm.Handle.ResizeMemoryAndWait(ctx, bytes, timeout), "ResizeMemoryAndWait to %d", bytes)
	vm.expectMemory(t, bytes, "after ResizeMemoryAndWait said that the guest has it")
}

func (vm *VM) expectMemory(t testing.TB, bytes int64, when string) {
	t.Helper()
	actual := vm.info(t).MemoryActualSize
	if assert.NotNil(t, actual, "MemoryActualSize of a VM whose memory can be resized, %s", when) {
		assert.InDelta(t, bytes, *actual, float64(vm.suite.b.MemoryStep), "MemoryActualSize %s", when)
	}
}

func (s *suite) testMemory(t *testing.T) {
	vm := s.vm(t)
	base, most := vm.Config.MemoryBytes, vm.Config.MemoryBytes+vm.Config.HotplugBytes
	if !vm.Handle.Capabilities().SupportsHotplugMemory {
		t.Skip("the back end cannot resize memory; that it says so is tested")
	}
	require.Positive(t, base, "Backend.Config needs MemoryBytes for the memory to be tested")

	t.Run("up and down", func(t *testing.T) {
		mark := vm.mark()
		for _, bytes := range []int64{vm.smaller(), base, most, base, most, vm.smaller(), base} {
			vm.resize(t, bytes)
		}
		if vm.events == nil {
			return
		}
		for _, e := range vm.events.all()[mark:] {
			if e.Kind == hypervisor.EventMemory {
				expectActual(t, e)
			}
		}
	})
	t.Run("without waiting", func(t *testing.T) {
		for _, bytes := range []int64{vm.smaller(), base} {
			require.NoError(t, vm.Handle.ResizeMemory(s.ctx(t), bytes), "ResizeMemory to %d", bytes)
			assert.True(t, eventually(s.b.Timeout, func() bool {
				actual := vm.info(t).MemoryActualSize
				return actual != nil && *actual > bytes-s.b.MemoryStep && *actual < bytes+s.b.MemoryStep
			}), "the guest does not follow ResizeMemory to %d", bytes)
		}
	})
	t.Run("between steps", func(t *testing.T) {
		vm.resize(t, vm.smaller()+s.b.MemoryStep/3)
		vm.resize(t, base)
	})
	t.Run("out of range", func(t *testing.T) {
		for _, bytes := range []int64{most + 1, most + 1<<30, 1<<63 - 1, 0, -1} {
			assert.ErrorIs(t, vm.Handle.ResizeMemory(s.ctx(t), bytes), hypervisor.ErrInvalid,
				"ResizeMemory to %d where the most is %d", bytes, most)
			err := promptly(t, s.b.Prompt, "ResizeMemoryAndWait to "+strconv.FormatInt(bytes, 10), func() error {
				return vm.Handle.ResizeMemoryAndWait(s.ctx(t), bytes, s.b.Timeout)
			})
			assert.ErrorIs(t, err, hypervisor.ErrInvalid, "ResizeMemoryAndWait to %d where the most is %d", bytes, most)
		}
		vm.expectMemory(t, base, "after sizes that were refused")
	})
	t.Run("deadline", func(t *testing.T) {
		if !vm.Handle.Capabilities().SupportsPause {
			t.Skip("without a pause there is no guest that does not follow")
		}
		// A guest that stands still does not follow.
		require.NoError(t, vm.Handle.Pause(s.ctx(t)), "Pause")
		began := time.Now()
		err := promptly(t, s.b.Deadline+s.b.Prompt, "ResizeMemoryAndWait of a guest that does not follow", func() error {
			return vm.Handle.ResizeMemoryAndWait(context.Background(), vm.smaller(), s.b.Deadline)
		})
		var resize *hypervisor.ResizeError
		require.ErrorAs(t, err, &resize, "ResizeMemoryAndWait of a guest that stands still")
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.GreaterOrEqual(t, time.Since(began), s.b.Deadline, "it returned before its timeout")
		assert.InDelta(t, vm.smaller(), resize.Target, float64(s.b.MemoryStep), "ResizeError.Target")
		assert.InDelta(t, base, resize.Actual, float64(s.b.MemoryStep), "ResizeError.Actual")
		assert.Equal(t, hypervisor.StatePaused, vm.info(t).State, "the state after a wait in vain")

		// The target stands, and the guest reaches it when it goes on.
		require.NoError(t, vm.Handle.Resume(s.ctx(t)), "Resume")
		vm.resize(t, vm.smaller())
		vm.resize(t, base)
	})
}

// expectActual checks an event of memory.
func expectActual(t testing.TB, e hypervisor.Event) {
	t.Helper()
	for _, d := range e.Detail {
		if d.Key == "actual" {
			n, err := strconv.ParseInt(d.Value, 10, 64)
			assert.True(t, err == nil && n > 0, "actual=%s of an event of memory is no number of bytes", d.Value)
			return
		}
	}
	t.Errorf("an event of memory without the detail actual: %+v", e)
}
