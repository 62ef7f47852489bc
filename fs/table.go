package fs

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"vmfs/backends/hypervisor"
	"vmfs/ctl"
	"vmfs/machine"
	"vmfs/machine/config"
	"vmfs/machine/rc"
)

// row is one file of a table: a text file has read, and write if it can be
// written; a stream has open; a directory has lookup and list.
type row struct {
	name string
	perm uint32 // the most that a mode can allow
	help string

	// read appends the content to b.
	read func(b []byte, n *node) ([]byte, error)
	// write carries out text. It is told of a truncation before it if
	// truncates is set.
	write     func(ctx context.Context, n *node, text string, replace bool) error
	truncates bool

	open func(n *node) (stream, error)

	// other makes the File of what is neither.
	other func(n node, parent *dir) file
}

// File is one line of the table of files, for the manual.
type File struct {
	Name  string
	Perm  uint32 // the permission bits that it can have
	Help  string
	Write bool
	Waits bool // reading waits for something to happen
}

// VMFiles returns the table of the files of a VM directory.
func VMFiles() []File { return describe(vmTable) }

// RootFiles returns the table of the files of the root besides the VMs.
func RootFiles() []File { return describe(rootTable) }

func describe(rows []row) []File {
	files := make([]File, len(rows))
	for i, r := range rows {
		files[i] = File{Name: r.name, Perm: r.perm, Help: r.help, Write: r.perm&0o222 != 0, Waits: r.open != nil && r.name != "clone"}
	}
	return files
}

func findRow(rows []row, name string) (int, bool) {
	for i := range rows {
		if rows[i].name == name {
			return i, true
		}
	}
	return 0, false
}

// vmTable is the files of a VM directory. A row's place is part of its files'
// qids: new rows come last.
var vmTable []row

func init() {
	vmTable = []row{
		{
			name: "ctl", perm: 0o666, help: "write verbs; read the verbs valid now, with their arguments",
			read:  func(b []byte, n *node) ([]byte, error) { return append(b, ctl.ValidVerbs(n.vm)...), nil },
			write: func(ctx context.Context, n *node, text string, _ bool) error { return ctl.Run(ctx, n.vm, text) },
		},
		{
			name: "config", perm: 0o666, help: "KEY=VALUE lines; > replaces, >> merges",
			read:      func(b []byte, n *node) ([]byte, error) { return append(b, n.vm.Config().String()...), nil },
			write:     writeConfig,
			truncates: true,
		},
		{
			name: "state", perm: 0o444, help: "created, running, paused or shutdown",
			read: func(b []byte, n *node) ([]byte, error) {
				return append(append(b, n.vm.State()...), '\n'), nil
			},
		},
		{
			name: "wait", perm: 0o444, help: "waits until the state differs from the one at open, then yields the new one",
			open: openWait,
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
			name: "info", perm: 0o444, help: "KEY=VALUE lines of what else is known",
			read: func(b []byte, n *node) ([]byte, error) { return appendInfo(b, n.vm), nil },
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
			open: func(n *node) (stream, error) { return &eventStream{sub: n.vm.Events().Subscribe()}, nil },
		},
		{
			name: "console", perm: 0o666, help: "the serial console, both ways, beginning with the scroll-back",
			open: openConsole,
		},
		{
			name: "log", perm: 0o444, help: "what the hypervisor's process printed",
			other: func(n node, _ *dir) file { return &logFile{node: n} },
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
		{
			name: "vsock", perm: 0o555, help: "streams into and out of the guest by virtio-vsock",
			other: func(n node, parent *dir) file { return vsockDir(n, parent) },
		},
		{
			name: "snapshots", perm: 0o555, help: "what snapshot NAME saved, a directory each; rmdir deletes one",
			other: func(n node, parent *dir) file { return snapshotsDir(n, parent) },
		},
	}
}

func appendWords(b []byte, c hypervisor.Capabilities) []byte {
	for _, w := range c.Words() {
		b = append(append(b, w...), '\n')
	}
	return b
}

// writeConfig merges what is written, or puts it in place of what was there if
// the file was truncated for this write.
func writeConfig(ctx context.Context, n *node, text string, replace bool) error {
	return n.vm.SetConfig(ctx, text, replace)
}

func writeMemory(ctx context.Context, n *node, text string, _ bool) error {
	text = strings.TrimSpace(text)
	size, err := config.ParseSize(text)
	if err != nil {
		err = fmt.Errorf("memory %s: %w: %w", n.vm.Name(), hypervisor.ErrInvalid, err)
		n.vm.RecordError("memory "+text, err)
		return err
	}
	return n.vm.ResizeMemory(ctx, size, 0)
}

// appendInfo writes what is known of the VM. Keys whose value is not known are
// left out.
func appendInfo(b []byte, vm *machine.VM) []byte {
	st, o := vm.Status(), vm.Owner()
	add := func(key, value string) {
		if value != "" {
			b = append(b, key+"="+rc.Quote(value)+"\n"...)
		}
	}
	size := func(n int64) string {
		if n == 0 {
			return ""
		}
		return strconv.FormatInt(n, 10)
	}
	add("backend", string(st.Backend))
	add("version", st.Version)
	add("uuid", vm.UUID())
	add("state", string(st.State))
	add("reason", st.Reason)
	if st.PID != 0 {
		add("pid", strconv.Itoa(st.PID))
	}
	if !st.Started.IsZero() {
		add("uptime", time.Since(st.Started).Round(time.Millisecond).String())
	}
	add("since", st.Since.UTC().Format(time.RFC3339))
	add("memory.target", size(st.MemoryTarget))
	add("memory.actual", size(st.MemoryActual))
	add("vsock.cid", size(vm.VsockCID()))
	add("busy", st.Busy)
	add("busy.done", size(st.Progress.Done))
	add("busy.total", size(st.Progress.Total))
	add("busy.rate", size(st.Progress.Rate))
	add("last.exit", st.LastExit)
	add("owner", strconv.FormatUint(uint64(o.UID), 10))
	add("group", strconv.FormatUint(uint64(o.GID), 10))
	add("mode", fmt.Sprintf("%#o", o.Mode))
	return b
}
