package fs

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hugelgupf/p9/p9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
	"vmfs/backends/sim"
	"vmfs/machine"
	"vmfs/ninep"
	"vmfs/streams"
)

// subjects are users without trust, each with a listener of his own.
var subjects = []*subject{
	{name: "ann", uid: 20001, gids: []uint32{20001, 500}, creates: true},
	{name: "bob", uid: 20002, gids: []uint32{20002, 600}},
	{name: "eve", uid: 20003, gids: []uint32{20003}},
	{name: "stray", uid: 3999999999}, // no account's number
	{name: "nobody", uid: nobody, nobody: true},
}

// A plot is a VM of a world, as it is before each round.
type plot struct {
	name    string
	owner   machine.Owner
	running bool
}

var plots = []plot{
	{"sealed", machine.Owner{UID: 0, GID: 0, Mode: 0o700}, true},
	{"shown", machine.Owner{UID: 0, GID: 600, Mode: 0o744}, true},
	{"anns", machine.Owner{UID: 20001, GID: 600, Mode: 0o640}, true},
	{"shared", machine.Owner{UID: 0, GID: 600, Mode: 0o770}, true},
	{"open", machine.Owner{UID: 0, GID: 0, Mode: 0o777}, true},
	{"stray", machine.Owner{UID: 20001, GID: 3999999999, Mode: 0o770}, false},
	{"nobodys", machine.Owner{UID: nobody, GID: nobody, Mode: 0o770}, true},
	{"down", machine.Owner{UID: 0, GID: 0, Mode: 0o744}, false},
}

// A world is a server with VMs of several owners, of whom root has streams, listeners and
// conversations open.
type world struct {
	t     testing.TB
	host  *machine.Host
	tree  *Tree
	addrs map[string]net.Addr // of the subjects' listeners

	echo   map[string]*streams.Conn         // root's stream of a VM that he alone writes to
	convs  map[string]*streams.Conversation // and his conversation
	taken  chan string                      // a VM whose listener of root's has ended
	looked map[string]string                // the VMs as they were last looked at
}

// secretOf is a word that is nowhere but in a VM's files.
func secretOf(name string) string { return "xSECRETx" + name + "x" }

// ofSubjects attaches each connection as the subject of its listener. Who has groups has them
// from the table, since this host has no such accounts; all else is as the tree does it.
type ofSubjects struct{ *Tree }

func (a ofSubjects) AttachUser(ctx context.Context, c caller, uname string, nuname uint32, aname string) (p9.File, error) {
	name, _ := c.FixedUser()
	for _, s := range subjects {
		if fmt.Sprint(s.uid) == name && len(s.gids) > 0 {
			return a.attach(&who{uid: s.uid, gids: s.gids}, aname)
		}
	}
	return a.Tree.AttachUser(ctx, c, uname, nuname, aname)
}

func newWorld(t testing.TB) *world {
	t.Helper()
	group := uint32(500)
	host := newHost(t)
	w := &world{
		t: t, host: host, tree: New(host, Options{CreateGroup: &group, Linger: time.Millisecond}),
		addrs: make(map[string]net.Addr), echo: make(map[string]*streams.Conn), convs: make(map[string]*streams.Conversation),
		taken: make(chan string, 10),
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() {
		cancel()
		w.tree.Close(context.Background())
		w.clear()
	})
	w.repair()
	for _, name := range []string{"sealed", "shown"} {
		vm, _ := host.VM(name)
		var err error
		w.echo[name], err = w.tree.guests.Dial(ctx, vm, sim.PortEcho)
		require.NoError(t, err)
		w.convs[name], err = w.tree.guests.Converse(vm)
		require.NoError(t, err)
		require.NoError(t, w.convs[name].Command(ctx, "connect 7"))
		go func() {
			_, err := w.tree.guests.Accept(ctx, vm, 700)
			w.taken <- fmt.Sprint(name, ": ", err)
		}()
	}
	srv := &ninep.Server{Attacher: ofSubjects{w.tree}}
	dir, err := os.MkdirTemp("/tmp", "vmfs")
	require.NoError(t, err)
	done := make(chan error, len(subjects))
	for _, s := range subjects {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		if !s.nobody {
			ln.Close()
			ln, err = net.Listen("unix", filepath.Join(dir, s.name))
			require.NoError(t, err)
			ln = ninep.WithUser(ln, fmt.Sprint(s.uid))
		}
		w.addrs[s.name] = ln.Addr()
		go func() { done <- srv.Serve(context.Background(), ln) }()
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		assert.NoError(t, srv.Shutdown(ctx))
		for range subjects {
			assert.NoError(t, <-done)
		}
		os.RemoveAll(dir)
	})
	w.look()
	return w
}

// clear removes every VM.
func (w *world) clear() {
	for _, vm := range w.host.VMs() {
		w.remove(vm)
	}
}

func (w *world) remove(vm *machine.VM) {
	w.t.Helper()
	require.Eventually(w.t, func() bool {
		if st := vm.State(); st == hypervisor.StateRunning || st == hypervisor.StatePaused {
			_ = vm.Kill(context.Background())
		}
		return vm.Delete(context.Background()) == nil
	}, time.Minute, time.Millisecond, "removing %s, which says %q", vm.Name(), vm.LastError())
}

// repair makes what VMs there are those of plots again: what is not as it was is made anew.
func (w *world) repair() {
	w.t.Helper()
	now := w.views()
	for _, vm := range w.host.VMs() {
		if was, ok := w.looked[vm.Name()]; !ok || now[vm.Name()] != was {
			w.remove(vm)
		}
	}
	ctx := context.Background()
	for i, p := range plots {
		if _, ok := w.host.VM(p.name); ok {
			continue
		}
		vm, err := w.host.Create(p.name, p.owner)
		require.NoError(w.t, err)
		require.NoError(w.t, vm.SetConfig(ctx, fmt.Sprintf("vsock.cid=%d\nhotplug=64M\nkernel=/dev/null\nargs=%s\n", 101+i, secretOf(p.name)), false))
		if p.running {
			require.NoError(w.t, vm.Start(ctx))
			_, err := vm.WriteConsole(ctx, []byte(secretOf(p.name)+"\n"))
			require.NoError(w.t, err)
			require.NoError(w.t, vm.Snapshot(ctx, "one"))
		}
		vm.RecordError("frob", fmt.Errorf("frob %s", secretOf(p.name)))
	}
}

// look waits until nothing changes by itself, and keeps how everything is.
func (w *world) look() {
	w.t.Helper()
	last := w.views()
	require.Eventually(w.t, func() bool {
		now := w.views()
		same := fmt.Sprint(now) == fmt.Sprint(last)
		last = now
		return same
	}, time.Minute, 2*time.Millisecond, "the VMs do not rest")
	w.looked = last
}

// views is all that anybody can see of each VM.
func (w *world) views() map[string]string {
	all := make(map[string]string)
	for _, vm := range w.host.VMs() {
		all[vm.Name()] = w.view(vm)
	}
	return all
}

func (w *world) view(vm *machine.VM) string {
	var b strings.Builder
	fmt.Fprintf(&b, "id %d gen %d owner %+v uuid %s\n%s%s\n%+v\n", vm.ID(), vm.Gen(), vm.Owner(), vm.UUID(), vm.Config(), vm.LastError(), vm.Status())
	told, err := vm.History()
	require.NoError(w.t, err)
	fmt.Fprintln(&b, strings.Join(told, "\n"))
	snapshots, err := vm.Snapshots()
	require.NoError(w.t, err)
	fmt.Fprintln(&b, snapshots)
	for _, c := range w.tree.guests.Conversations(vm) {
		status, err := c.Status()
		fmt.Fprintln(&b, c.Name(), status, err)
	}
	for _, path := range []string{vm.ConsoleLogPath(), vm.LogPath()} {
		text, err := os.ReadFile(path)
		if !errors.Is(err, os.ErrNotExist) { // which reads as empty
			require.NoError(w.t, err)
		}
		fmt.Fprintln(&b, string(text))
	}
	return b.String()
}

// check compares what there is with what there was, after those of who did what they could.
func (w *world) check(after string, who ...*subject) {
	w.t.Helper()
	now := w.views()
	for name, was := range w.looked {
		i := -1
		for j, p := range plots {
			if p.name == name {
				i = j
			}
		}
		var may rights
		for _, s := range who {
			r := s.rights(plots[i].owner)
			may.write, may.own = may.write || r.write, may.own || r.own
		}
		vm, ok := w.host.VM(name)
		if may.own {
			continue
		}
		require.True(w.t, ok, "%s: %s is gone", after, name)
		require.Equal(w.t, plots[i].owner, vm.Owner(), "%s: %s", after, name)
		if !may.write {
			require.Equal(w.t, was, now[name], "%s: %s has changed", after, name)
		}
	}
	for name := range now {
		if _, ok := w.looked[name]; ok {
			continue
		}
		vm, ok := w.host.VM(name)
		made := false
		for _, s := range who {
			made = made || s.creates && ok && vm.Owner().UID == s.uid
		}
		require.True(w.t, made, "%s: there is a VM %s", after, name)
	}
	select {
	case what := <-w.taken:
		require.Fail(w.t, "a listener of root's has ended", "%s: %s", after, what)
	default:
	}
	for name, s := range w.echo {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		_, err := s.Write(ctx, []byte("ping"))
		require.NoError(w.t, err, "%s: root's stream of %s", after, name)
		buf := make([]byte, 10)
		n, err := s.Read(ctx, buf)
		cancel()
		require.NoError(w.t, err, "%s: root's stream of %s", after, name)
		require.Equal(w.t, "ping", string(buf[:n]), "%s: root's stream of %s", after, name)
		_, err = w.convs[name].Data(context.Background())
		require.NoError(w.t, err, "%s: root's conversation of %s", after, name)
		w.convs[name].Close()
	}
	w.repair()
	w.look()
}
