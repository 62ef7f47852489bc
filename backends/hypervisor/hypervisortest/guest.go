package hypervisortest

import (
	"fmt"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
)

// WithGuest returns b with what is to know of vmfs's own guest, a Linux with a shell at its
// console.
func (b Backend) WithGuest() Backend {
	b.Ready = ReadyLine("vmfs guest ready")
	b.Echo = func(token string) (string, string) { return "echo " + token + "\r", "\n" + token }
	b.Remember = func(token string) (string, string) { return "T=" + token + "; echo kept$T\r", "\nkept" + token }
	b.Recall = func(token string) (string, string) { return "echo $T\r", "\n" + token }
	b.DiskSize = func(i int, bytes int64) (string, string) {
		return fmt.Sprintf("echo $(cat /sys/block/vd%c/size) sectors\r", 'a'+i), fmt.Sprintf("\n%d sectors", bytes/512)
	}
	b.NMI = "NMI received for unknown reason"
	b.EchoPort = 7
	b.Stops = Stops(Typing("poweroff\r"), Typing("echo c > /proc/sysrq-trigger\r"))
	return b
}

// Stops are a guest that powers off and one that panics, by what provokes them.
func Stops(powerOff, panics func(testing.TB, *VM)) []Stop {
	return []Stop{
		{
			Name: "guest powers off", Provoke: powerOff,
			Kind: hypervisor.EventShutdown, State: hypervisor.StateShutdown, Reason: "guest-shutdown",
		},
		{
			Name: "guest panics", Provoke: panics,
			Kind: hypervisor.EventPanicked, State: hypervisor.StatePaused, Reason: "guest-panicked",
		},
	}
}

// Typing types text at the console.
func Typing(text string) func(testing.TB, *VM) {
	return func(t testing.TB, vm *VM) {
		t.Helper()
		conn, err := vm.Handle.(hypervisor.Console).OpenConsole(t.Context())
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })           // not at once: the VMM may not have read it yet
		go func() { _, _ = io.Copy(io.Discard, conn) }() // a guest may wait for its console's reader
		_, err = io.WriteString(conn, text)
		require.NoError(t, err)
	}
}
