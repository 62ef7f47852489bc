package sim

import (
	"fmt"
	"strconv"
	"time"

	"vmfs/backends/hypervisor"
)

// resizeTick is how often at most a slow guest's memory moves.
const resizeTick = 20 * time.Millisecond

// ceiling is the most memory that the guest can have.
func (vm *VM) ceiling() int64 { return vm.config.MemoryBytes + vm.config.HotplugBytes }

// round returns the closest step to bytes, counted from the base size.
func (vm *VM) round(bytes int64) int64 {
	off := bytes - vm.config.MemoryBytes
	half := int64(memoryStep / 2)
	if off < 0 {
		half = -half
	}
	to := vm.config.MemoryBytes + (off+half)/memoryStep*memoryStep
	switch {
	case to > vm.ceiling():
		to -= memoryStep
	case to <= 0:
		to += memoryStep
	}
	return to
}

// The methods below are called with vm.mu held.

func (vm *VM) setTarget(bytes int64) error {
	if err := vm.alive(); err != nil {
		return err
	}
	if bytes <= 0 || bytes > vm.ceiling() {
		return fmt.Errorf("%d bytes are not from 1 to %d (memory and hotplug of the configuration): %w",
			bytes, vm.ceiling(), hypervisor.ErrInvalid)
	}
	vm.target = vm.round(bytes)
	vm.follow()
	return nil
}

// follow moves a guest that runs to its memory target, or begins to.
func (vm *VM) follow() {
	goal := max(vm.target, min(memoryFloor, vm.config.MemoryBytes))
	_, deaf := vm.fault(FaultNoResize, "")
	if !vm.guestRuns() || !vm.booted || vm.moving || deaf || vm.actual == goal {
		return
	}
	slow, ok := vm.fault(FaultSlowResize, "")
	if !ok {
		vm.setActual(goal)
		return
	}
	// A tick moves whole steps: as many as resizeTick allows, or one in the
	// time that one takes.
	steps := max(slow.Rate*int64(resizeTick)/int64(time.Second)/memoryStep, 1)
	every := time.Duration(float64(steps*memoryStep) / float64(slow.Rate) * float64(time.Second))
	vm.moving = true
	vm.after(every, func() {
		vm.moving = false
		goal := max(vm.target, min(memoryFloor, vm.config.MemoryBytes))
		far := goal - vm.actual
		move := max(min(far, steps*memoryStep), -steps*memoryStep)
		if _, deaf := vm.fault(FaultNoResize, ""); deaf || move == 0 {
			return
		}
		vm.setActual(vm.actual + move)
		vm.follow()
	})
}

func (vm *VM) setActual(bytes int64) {
	vm.actual = bytes
	vm.emit(hypervisor.Event{
		Kind:   hypervisor.EventMemory,
		Detail: []hypervisor.Detail{{Key: "actual", Value: strconv.FormatInt(bytes, 10)}},
	})
	vm.cond.Broadcast()
}
