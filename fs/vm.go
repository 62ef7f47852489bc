package fs

import (
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"vmfs/backends/hypervisor"
	"vmfs/ctl"
	"vmfs/internal/printable"
	"vmfs/internal/regular"
	"vmfs/machine/config"
	"vmfs/machine/events"
	"vmfs/machine/rc"
	"vmfs/streams"
)

// vmKind is the directory of a VM.
var vmKind = dirKind{
	rows: []row{
		{
			name: "ctl", perm: 0o666, help: "write verbs; read the verbs valid now, with their arguments",
			read:    func(b []byte, n *node) ([]byte, error) { return append(b, ctl.ValidVerbs(n.vm)...), nil },
			write:   func(ctx context.Context, n *node, text string) error { return ctl.Run(ctx, n.vm, text) },
			answers: true,
		},
		{
			name: "config", perm: 0o666, help: "KEY=VALUE lines; > replaces, >> merges",
			read: func(b []byte, n *node) ([]byte, error) { return append(b, n.vm.Config().String()...), nil },
			set: func(ctx context.Context, n *node, text string, replace bool) error {
				return n.vm.SetConfig(ctx, text, replace)
			},
		},
		{
			name: "state", perm: 0o444, help: "created, running, paused or shutdown",
			read: func(b []byte, n *node) ([]byte, error) {
				return append(append(b, n.vm.State()...), '\n'), nil
			},
		},
		{
			name: "wait", perm: 0o444, help: "waits until the state differs from the one at open, then yields the new one",
			stream: plain(func(n *node) streams.Stream { return streams.NextState(n.vm) }),
		},
		{
			name: "memory", perm: 0o666, help: "read: bytes the guest has now; write: a size to resize it to",
			read: func(b []byte, n *node) ([]byte, error) {
				st := n.vm.Status()
				if st.MemoryErr != nil {
					return nil, fmt.Errorf("memory of %s: %w", n.vm.Name(), st.MemoryErr)
				}
				return append(strconv.AppendInt(b, st.MemoryActual, 10), '\n'), nil
			},
			write: writeMemory,
		},
		{
			name: "capabilities", perm: 0o444, help: "what the back end can do for this VM, a word a line",
			read: func(b []byte, n *node) ([]byte, error) { return appendWords(b, n.vm.Capabilities()), nil },
		},
		{
			name: "info", perm: 0o444, help: "KEY=VALUE lines of what no other file says",
			read: appendInfo,
		},
		{
			name: "error", perm: 0o444, help: "the text of the last command that failed, empty once one succeeds",
			read: func(b []byte, n *node) ([]byte, error) {
				if e := n.vm.LastError(); e != "" {
					b = append(append(b, strings.TrimSuffix(e, "\n")...), '\n')
				}
				return b, nil
			},
		},
		{
			name: "events", perm: 0o444, help: "what happens to the VM from the open on, a line each",
			stream: plain(func(n *node) streams.Stream { return streams.Events(n.vm.Events(), events.Audience{}) }),
			holds:  cost{bytes: events.ReaderBytes},
		},
		{
			name: "console", perm: 0o666, help: "the serial console, both ways, beginning with the scroll-back",
			stream: plain(func(n *node) streams.Stream { return streams.Console(n.vm) }),
			holds:  cost{descriptors: 2}, // the VM's file and the watch of it, or who types
		},
		{
			name: "log", perm: 0o444, help: "what the hypervisor's process printed",
			readAt: readLog,
		},
		{
			name: "pid", perm: 0o444, help: "the hypervisor's process, empty if there is none",
			read: func(b []byte, n *node) ([]byte, error) {
				if pid := n.vm.Status().PID; pid != 0 {
					b = append(strconv.AppendInt(b, int64(pid), 10), '\n')
				}
				return b, nil
			},
		},
		{name: "vsock", perm: 0o555, help: "streams into and out of the guest by virtio-vsock", dir: &vsockKind},
		{name: "snapshots", perm: 0o555, help: "a directory for each snapshot; mkdir takes one, rmdir deletes it", dir: &snapshotsKind},
	},
	at:   func(d *dir) string { return d.vm.Name() + "/" },
	none: "a VM has no such file",
}

func appendWords(b []byte, c hypervisor.Capabilities) []byte {
	for _, w := range c.Words() {
		b = append(append(b, w...), '\n')
	}
	return b
}

func writeMemory(ctx context.Context, n *node, text string) error {
	text = strings.TrimSpace(text)
	size, err := config.ParseSize(text)
	if err != nil {
		err = fmt.Errorf("memory %s: %w: %w", n.vm.Name(), hypervisor.ErrInvalid, err)
		n.vm.RecordError("memory "+text, err)
		return err
	}
	return n.vm.ResizeMemory(ctx, size, 0)
}

// readLog reads what is on the disk of the log, made printable; a VM that never ran has an
// empty one. What is there in its place is an error.
func readLog(n *node, p []byte, off int64) (int, error) {
	f, err := regular.Open(n.vm.LogPath())
	if errors.Is(err, iofs.ErrNotExist) {
		return 0, io.EOF
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	// With what characters may have beyond both ends.
	const margin = utf8.UTFMax - 1
	from := max(0, off-margin)
	before := int(off - from)
	buf := make([]byte, before+len(p)+margin)
	got, err := f.ReadAt(buf, from)
	if got > before {
		printable.Bytes(buf[:got])
		return copy(p, buf[before:got]), nil
	}
	if err == nil {
		err = io.EOF
	}
	return 0, err
}

// appendKey adds a line to a text of KEY=VALUE lines, unless the value is not
// known.
func appendKey(b []byte, key, value string) []byte {
	if value == "" {
		return b
	}
	return append(b, key+"="+rc.Quote(printable.Line(value))+"\n"...)
}

// appendInfo writes what is known of the VM and no other file says.
func appendInfo(b []byte, n *node) ([]byte, error) {
	vm := n.vm
	st := vm.Status()
	size := func(n int64) string {
		if n == 0 {
			return ""
		}
		return strconv.FormatInt(n, 10)
	}
	uptime := ""
	if !st.Started.IsZero() {
		uptime = time.Since(st.Started).Round(time.Millisecond).String()
	}
	for _, kv := range [][2]string{
		{"hypervisor", string(st.Backend)},
		{"version", st.Version},
		{"uuid", vm.UUID()},
		{"reason", st.Reason},
		{"uptime", uptime},
		{"since", st.Since.UTC().Format(time.RFC3339)},
		{"memory.target", size(st.MemoryTarget)},
		{"vsock.cid", size(vm.GuestCID())},
		{"busy", st.Busy},
		{"busy.done", size(st.Progress.Done)},
		{"busy.total", size(st.Progress.Total)},
		{"busy.rate", size(st.Progress.Rate)},
		{"last.exit", st.LastExit},
	} {
		b = appendKey(b, kv[0], kv[1])
	}
	for _, d := range vm.Details() {
		b = appendKey(b, d.Key, d.Value)
	}
	return b, nil
}
