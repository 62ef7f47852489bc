// Package hypervisortest is the suite that every back end passes: what package
// hypervisor promises, tried on the real thing. A back end calls [Run] from a
// test of its own, after registering itself.
//
// Most subtests share one VM that boots once, since a real guest may take
// seconds to; those that need a VM of their own start one, and mostly do not
// wait for its guest. Every subtest can be run alone with -run. What a back end
// says it lacks (Capabilities, optional interfaces) is checked to be lacking and
// otherwise left out.
//
// The package imports hypervisor, the standard library and testify.
package hypervisortest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"vmfs/backends/hypervisor"
	"vmfs/internal/wait"
)

// A Backend is what the suite needs to know of a back end.
type Backend struct {
	// Type is what Starter and the client factory are registered as.
	Type    hypervisor.Type
	Starter hypervisor.VMStarter
	Paths   *hypervisor.Paths

	// Config makes the configuration of one more VM, whose guest boots by
	// itself, has a driver for its memory and powers off at the power button.
	// Several may run at once, so that what must be unique has to be. Files go to
	// dir, the VM's run-time directory, which the suite removes after the VM. An
	// empty Name, UUID, SerialLogPath or LogPath is filled in.
	Config func(t testing.TB, dir string) hypervisor.VMConfig

	// Ready waits until the guest is up: it has its drivers, and reads its
	// console. The boot to wait for is the one whose output is in
	// config.SerialLogPath from offset on. See ReadyLine.
	Ready func(ctx context.Context, hv hypervisor.Hypervisor, config hypervisor.VMConfig, offset int64) error

	// Timeout bounds every step that should succeed, a boot among them; 0 is 30 s.
	Timeout time.Duration
	// Deadline is the deadline that the suite gives to what should not succeed;
	// 0 is 500 ms.
	Deadline time.Duration
	// Prompt is how late after its context's end a call may return; 0 is 5 s.
	Prompt time.Duration

	// BadConfig spoils a configuration so that its start fails, and returns a
	// word of what the VMM says about it. Nil names a kernel that is not there.
	BadConfig func(t testing.TB, config *hypervisor.VMConfig) (says string)

	// Hang makes the VMM hang until goOn is called. Nil stops its process with
	// SIGSTOP. A back end without processes must have it.
	Hang func(t testing.TB, vm *VM) (goOn func())

	// Echo says what to type for the console to print a line with token, and what
	// is then to be read. Nil types the token, which terminals echo.
	Echo func(token string) (typed, want string)

	// Remember and Recall type at the console what lets the guest keep token in
	// its memory and print it again, for instance as a shell's variable. Without
	// them it is not tested that a snapshot has the guest's memory.
	Remember, Recall func(token string) (typed, want string)

	// NMI is what the guest prints when it gets an NMI. A back end whose handle is a
	// hypervisor.NMIInjector must have it.
	NMI string

	// DiskSize says what to type for the console to print the bytes that the guest sees
	// of its disk number i, and what is read where they are those given. A back end whose
	// handle is a hypervisor.DiskGrower must have it.
	DiskSize func(i int, bytes int64) (typed, want string)

	// MemoryStep is the step in which memory moves; 0 is 2 MiB.
	MemoryStep int64

	// EchoPort is a vsock port on which the guest echoes until the end of what is
	// sent, and then ends; 0 is none, and the vsock is not tested. RefusedPort is
	// one that refuses; 0 is 4294967000.
	EchoPort, RefusedPort int

	// RefusedError and PortError are what the dialer says of a port that refuses and of
	// one that cannot be; nil is syscall.ECONNREFUSED and hypervisor.ErrInvalid.
	RefusedError, PortError error

	// Stops are the ways in which a guest stops other than by a command.
	Stops []Stop
}

// A Stop is one way in which a guest stops, and how that is to be told.
type Stop struct {
	Name    string
	Provoke func(t testing.TB, vm *VM)
	Kind    hypervisor.EventKind // of an event that is to be seen
	State   hypervisor.VMState   // paused or shutdown
	Reason  string
}

// ReadyLine is a Backend.Ready that waits for text on the serial console.
func ReadyLine(text string) func(context.Context, hypervisor.Hypervisor, hypervisor.VMConfig, int64) error {
	return func(ctx context.Context, _ hypervisor.Hypervisor, config hypervisor.VMConfig, offset int64) error {
		return awaitFile(ctx, config.SerialLogPath, offset, text)
	}
}

// awaitFile waits until the file has text at or behind offset. Nothing tells of
// a file's growth on every system, so it looks every few milliseconds.
func awaitFile(ctx context.Context, path string, offset int64, text string) error {
	var rerr error
	err := wait.Until(ctx, 10*time.Millisecond, func() (bool, error) {
		var b []byte
		b, rerr = os.ReadFile(path)
		return rerr == nil && int64(len(b)) > offset && bytes.Contains(b[offset:], []byte(text)), nil
	})
	if err != nil {
		return fmt.Errorf("no %q in %s behind byte %d: %w (%v)", text, path, offset, err, rerr)
	}
	return nil
}

// Run runs the suite. b is to be registered already.
func Run(t *testing.T, b Backend) {
	t.Helper()
	setDefault(&b.Timeout, 30*time.Second)
	setDefault(&b.Deadline, 500*time.Millisecond)
	setDefault(&b.Prompt, 5*time.Second)
	setDefault(&b.MemoryStep, 2<<20)
	setDefault(&b.RefusedPort, 4294967000)
	setDefault(&b.RefusedError, error(syscall.ECONNREFUSED))
	setDefault(&b.PortError, hypervisor.ErrInvalid)
	if b.Echo == nil {
		b.Echo = func(token string) (string, string) { return token + "\r", token }
	}
	s := &suite{b: b}
	t.Cleanup(func() { s.cleanup(t) })

	t.Run("registry", s.testRegistry)
	t.Run("starter", s.testStarter)
	if !t.Run("start", s.testStart) {
		t.Fatal("no VM starts: the rest of the suite is left out")
	}
	t.Run("failing start", s.testFailingStart)
	t.Run("invalid configurations", s.testInvalidConfigs)
	t.Run("identity", s.testIdentity)
	t.Run("capabilities", s.testCapabilities)
	t.Run("pause and resume", s.testPause)
	t.Run("contexts", s.testContexts)
	t.Run("console", s.testConsole)
	t.Run("memory", s.testMemory)
	t.Run("concurrency", s.testConcurrency)
	t.Run("another handle", s.testAnotherHandle)
	t.Run("vsock", s.testVsock)
	t.Run("disk size", s.testDiskSize)
	t.Run("nmi", s.testNMI)
	t.Run("reset", s.testReset)
	t.Run("snapshot", s.testSnapshot)
	t.Run("hang", s.testHang)
	t.Run("power off", s.testPowerOff)
	t.Run("restore", s.testRestore)
	t.Run("shutdown", s.testShutdown)
	t.Run("kill", s.testKill)
	t.Run("stops", s.testStops)
}

func setDefault[V comparable](v *V, otherwise V) {
	var zero V
	if *v == zero {
		*v = otherwise
	}
}
