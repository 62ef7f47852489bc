package fs

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// vsockTree is a tree with a running VM web that has vsock, and a client of it.
func vsockTree(t *testing.T, opt Options) (p9.File, *Tree) {
	t.Helper()
	tree := New(newHost(t), opt)
	t.Cleanup(func() { tree.Close(t.Context()) })
	root := client(t, tree)
	require.NoError(t, mkdir(t, root, "web"))
	mustWrite(t, root, "web/config", "vsock.cid=3")
	mustWrite(t, root, "web/ctl", "start")
	return root, tree
}

// readAll reads f to its end.
func readAll(f p9.File) (string, error) {
	var text []byte
	buf := make([]byte, 32<<10)
	for {
		n, err := f.ReadAt(buf, int64(len(text)))
		text = append(text, buf[:n]...)
		switch {
		case err == nil && n > 0:
		case err == nil || errors.Is(err, io.EOF):
			return string(text), nil
		default:
			return string(text), err
		}
	}
}

// put writes all of p to f, as often as it takes.
func put(f p9.File, p []byte) error {
	for off := 0; off < len(p); {
		n, err := f.WriteAt(p[off:min(len(p), off+64<<10)], int64(off))
		if err != nil {
			return err
		}
		off += n
	}
	return nil
}

func errnoFrom(err error) linux.Errno {
	if err == nil {
		return 0
	}
	return linux.ExtractErrno(err)
}

// soon runs f, which has to come to its end.
func soon(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		require.Fail(t, what+" hangs")
	}
}

func TestVsockNames(t *testing.T) {
	root, _ := vsockTree(t, Options{})
	dir := mustOpen(t, root, "web/vsock", p9.ReadOnly)
	ents, err := dir.Readdir(0, 100)
	require.NoError(t, err)
	require.Len(t, ents, 2)
	paths := map[uint64]string{}
	for _, name := range []string{"", "/clone", "/listen", "/1", "/2", "/1024", "/4294967294", "/listen/1", "/listen/2", "/listen/4294967294"} {
		var err error
		for range 2 { // the qid is the same each time
			var qids []p9.QID
			qids, _, err = root.Walk(strings.Split("web/vsock"+name, "/"))
			require.NoError(t, err, name)
			q := qids[len(qids)-1]
			if other, ok := paths[q.Path]; ok {
				assert.Equal(t, name, other, "a qid of its own")
			}
			paths[q.Path] = name
		}
	}
	for _, name := range []string{"0", "4294967295", "99999999999999999999", "-1", "01", "+1", "1 ", "web", "c0", "c1", "C0", "0x10", "listen/0", "listen/4294967295", "listen/clone", "clone/x"} {
		_, err := open(t, root, "web/vsock/"+name, p9.ReadOnly)
		want := linux.ENOENT
		if name == "clone/x" {
			want = linux.ENOTDIR
		}
		assert.Equal(t, want, errnoFrom(err), "%q", name)
	}
}

func TestVsockErrnos(t *testing.T) {
	root := client(t, New(newHost(t), Options{}))
	dial := func(vm string) linux.Errno {
		_, err := open(t, root, vm+"/vsock/7", p9.ReadWrite)
		return errnoFrom(err)
	}
	listen := func(vm string) linux.Errno {
		_, err := open(t, root, vm+"/vsock/listen/7", p9.ReadWrite)
		return errnoFrom(err)
	}
	for _, name := range []string{"down", "without", "web", "slow", "mute"} {
		require.NoError(t, mkdir(t, root, name))
	}
	mustWrite(t, root, "web/config", "vsock.cid=3")
	mustWrite(t, root, "slow/config", "vsock.cid=3\nsim.fault='refuse@vsock:no time'")
	mustWrite(t, root, "mute/config", "vsock.cid=3\nsim.without=vsock")
	assert.Equal(t, linux.ENXIO, dial("down"))
	assert.Equal(t, linux.ENXIO, listen("down"))
	assert.Contains(t, cat(t, root, "down/error"), "not running")
	for _, name := range []string{"without", "web", "slow"} {
		mustWrite(t, root, name+"/ctl", "start")
	}
	assert.Equal(t, linux.EOPNOTSUPP, dial("without"))
	assert.Equal(t, linux.EOPNOTSUPP, listen("without"))
	assert.Contains(t, cat(t, root, "without/error"), "vsock.cid=3")
	assert.Equal(t, linux.EOPNOTSUPP, errnoFrom(write(t, root, "mute/ctl", "start")))
	assert.Equal(t, linux.EIO, dial("slow"))
	assert.Contains(t, cat(t, root, "slow/error"), "no time")
	_, err := open(t, root, "web/vsock/1024", p9.ReadWrite)
	assert.Equal(t, linux.ECONNREFUSED, errnoFrom(err))
	assert.Contains(t, cat(t, root, "web/error"), "port 1024")
	assert.Equal(t, linux.Errno(0), dial("web"))

	for want, err := range map[linux.Errno]error{
		linux.ETIMEDOUT: fmt.Errorf("x: %w", context.DeadlineExceeded),
		linux.EINTR:     fmt.Errorf("x: %w", context.Canceled),
	} {
		assert.Equal(t, want, errnoFrom(fail(err)))
	}
}

// TestVsockModes opens a port for reading, for writing and for both.
func TestVsockModes(t *testing.T) {
	root, _ := vsockTree(t, Options{})
	assert.Contains(t, cat(t, root, "web/vsock/13"), "UTC")

	f := mustOpen(t, root, "web/vsock/7", p9.ReadWrite|openTruncate)
	require.NoError(t, f.SetAttr(p9.SetAttrMask{Size: true}, p9.SetAttr{}))
	_, err := f.WriteAt([]byte("ping\n"), 0)
	require.NoError(t, err)
	buf := make([]byte, 100)
	n, err := f.ReadAt(buf, 7000) // the offset means nothing
	require.NoError(t, err)
	assert.Equal(t, "ping\n", string(buf[:n]))
	_, _, a, err := f.GetAttr(p9.AttrMaskAll)
	require.NoError(t, err)
	assert.Zero(t, a.Size)

	r := mustOpen(t, root, "web/vsock/7", p9.ReadOnly)
	_, err = r.WriteAt([]byte("x"), 0)
	assert.Equal(t, linux.EBADF, errnoFrom(err))
	// Nobody reads what the guest answers: it is dropped, and the guest reads on.
	w := mustOpen(t, root, "web/vsock/7", p9.WriteOnly)
	_, err = w.ReadAt(buf, 0)
	assert.Equal(t, linux.EBADF, errnoFrom(err))
	soon(t, "writing to an echo that nobody reads", func() { assert.NoError(t, put(w, make([]byte, 1<<20))) })
}

// TestVsockBothWays sends a megabyte to the echo and compares.
func TestVsockBothWays(t *testing.T) {
	root, _ := vsockTree(t, Options{})
	for range 3 {
		data := make([]byte, 1<<20+7)
		_, err := rand.Read(data)
		require.NoError(t, err)
		ctl, path := converse(t, root)
		mustWriteTo(t, ctl, "connect 7")
		rd, wr := mustOpen(t, root, path+"/data", p9.ReadOnly), mustOpen(t, root, path+"/data", p9.WriteOnly)
		var wg sync.WaitGroup
		wg.Go(func() {
			assert.NoError(t, put(wr, data))
			_, err := ctl.WriteAt([]byte("shutdown write"), 0)
			assert.NoError(t, err)
		})
		soon(t, "echo", func() {
			got, err := readAll(rd)
			assert.NoError(t, err)
			assert.True(t, bytes.Equal(data, []byte(got)), "%d bytes", len(got))
		})
		wg.Wait()
		assert.Contains(t, cat(t, root, path+"/status"), fmt.Sprintf("in=%d\nout=%[1]d\n", len(data)))
		_, err = wr.WriteAt([]byte("more"), 0)
		assert.Equal(t, linux.EPIPE, errnoFrom(err), "our side is shut")
		assert.Contains(t, cat(t, root, path+"/status"), "state=closed\n", "both sides are")
	}
}

// converse opens clone and returns it with the path of its conversation.
func converse(t *testing.T, root p9.File) (p9.File, string) {
	t.Helper()
	ctl := mustOpen(t, root, "web/vsock/clone", p9.ReadWrite)
	name, err := readAll(ctl)
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(name, "c") && strings.HasSuffix(name, "\n"), "%q", name)
	return ctl, "web/vsock/" + strings.TrimSpace(name)
}

func mustWriteTo(t *testing.T, f p9.File, text string) {
	t.Helper()
	_, err := f.WriteAt([]byte(text), 0)
	require.NoError(t, err, text)
}

func TestVsockConversation(t *testing.T) {
	root, _ := vsockTree(t, Options{})
	ctl, path := converse(t, root)
	_, other := converse(t, root)
	assert.NotEqual(t, path, other)
	assert.Equal(t, "state=idle\nin=0\nout=0\n", cat(t, root, path+"/status"))
	_, err := open(t, root, path+"/data", p9.ReadWrite)
	assert.Equal(t, linux.ENOTCONN, errnoFrom(err))
	_, err = open(t, root, path+"/status", p9.WriteOnly)
	assert.Equal(t, linux.EACCES, errnoFrom(err))
	_, err = open(t, root, path+"/listen", p9.ReadOnly)
	assert.Equal(t, linux.ENOENT, errnoFrom(err))
	for _, c := range []struct {
		text string
		want linux.Errno
	}{
		{"frob", linux.EINVAL},
		{"connect", linux.EINVAL},
		{"connect 0", linux.EINVAL},
		{"connect 4294967295", linux.EINVAL},
		{"connect echo", linux.EINVAL},
		{"announce", linux.EINVAL},
		{"announce 0", linux.EINVAL},
		{"shutdown", linux.EINVAL},
		{"shutdown read", linux.EINVAL},
		{"connect 'x", linux.EINVAL},
		{"shutdown write", linux.ENOTCONN},
		{"connect 4000", linux.ECONNREFUSED},
		{"shutdown write", linux.ECONNREFUSED}, // why there is no stream
	} {
		_, err := ctl.WriteAt([]byte(c.text+"\n"), 0)
		assert.Equal(t, c.want, errnoFrom(err), c.text)
	}
	_, err = open(t, root, path+"/data", p9.ReadWrite)
	assert.Equal(t, linux.ECONNREFUSED, errnoFrom(err), "why there is no stream")

	// A second ctl, by name, does as well; one stream each.
	ctl2 := mustOpen(t, root, path+"/ctl", p9.ReadWrite)
	mustWriteTo(t, ctl2, "# to the echo\nconnect 7\n")
	_, err = ctl.WriteAt([]byte("connect 7"), 0)
	assert.Equal(t, linux.EBUSY, errnoFrom(err))
	assert.Equal(t, "state=established\nport=7\nin=0\nout=0\n", cat(t, root, path+"/status"))

	// A blocked read of one open does not hold up a write by another.
	rd := mustOpen(t, root, path+"/data", p9.ReadOnly)
	got := make(chan string, 1)
	go func() {
		buf := make([]byte, 100)
		n, _ := rd.ReadAt(buf, 0)
		got <- string(buf[:n])
	}()
	require.NoError(t, write(t, root, path+"/data", "hello"))
	assert.Equal(t, "hello\n", <-got)

	// It is there as long as any of its files is open.
	require.NoError(t, ctl.Close())
	require.NoError(t, ctl2.Close())
	assert.Contains(t, cat(t, root, path+"/status"), "established")
}

// TestVsockConversationGoes closes the last open file of a conversation.
func TestVsockConversationGoes(t *testing.T) {
	root, _ := vsockTree(t, Options{})
	ctl, path := converse(t, root)
	mustWriteTo(t, ctl, "connect 7")
	status := mustOpen(t, root, path+"/status", p9.ReadOnly)
	_, data, err := root.Walk(strings.Split(path+"/data", "/"))
	require.NoError(t, err)
	require.NoError(t, ctl.Close())
	_, err = open(t, root, path+"/ctl", p9.ReadOnly)
	assert.Equal(t, linux.ENOENT, errnoFrom(err))
	_, _, err = data.Open(p9.ReadWrite)
	assert.Equal(t, linux.ENOENT, errnoFrom(err), "by a fid from before")
	_, err = status.ReadAt(make([]byte, 100), 0)
	assert.Equal(t, linux.ENOENT, errnoFrom(err))
	_, gone, err := root.Walk(strings.Split(path, "/")[:2])
	require.NoError(t, err)
	kept, again := converse(t, root)
	assert.Equal(t, path, again, "numbers are used again")
	_, _, err = data.Open(p9.ReadWrite)
	assert.Equal(t, linux.ENOENT, errnoFrom(err), "a fid from before is of the one before")
	q, _, err := gone.Walk([]string{strings.TrimPrefix(again, "web/vsock/"), "data"})
	require.NoError(t, err)
	assert.NotEqual(t, dataQID(t, data), q[1].Path, "and so is its qid")

	ctl, path = converse(t, root)
	assert.NotEqual(t, again, path)
	require.NoError(t, kept.Close())
	mustWriteTo(t, ctl, "connect 7")
	rd := mustOpen(t, root, path+"/data", p9.ReadOnly)
	mustWriteTo(t, ctl, "hangup")
	soon(t, "a read of what was hung up", func() {
		text, err := readAll(rd)
		assert.NoError(t, err)
		assert.Empty(t, text)
	})
	_, err = open(t, root, path+"/data", p9.WriteOnly)
	assert.Equal(t, linux.ENOTCONN, errnoFrom(err))
}

func dataQID(t *testing.T, f p9.File) uint64 {
	t.Helper()
	q, _, _, err := f.GetAttr(p9.AttrMaskAll)
	require.NoError(t, err)
	return q.Path
}

// TestVsockStalled has a stream that nobody reads beside others.
func TestVsockStalled(t *testing.T) {
	root, _ := vsockTree(t, Options{})
	stalled := mustOpen(t, root, "web/vsock/7", p9.ReadWrite)
	full := make(chan error, 1)
	go func() { full <- put(stalled, make([]byte, 1<<20)) }()
	mustOpen(t, root, "web/vsock/19", p9.ReadOnly) // chargen, not read at all
	for range 50 {
		f := mustOpen(t, root, "web/vsock/7", p9.ReadWrite)
		soon(t, "an echo beside a stalled stream", func() {
			assert.NoError(t, put(f, []byte("ping")))
			n, err := f.ReadAt(make([]byte, 10), 0)
			assert.NoError(t, err)
			assert.Equal(t, 4, n)
		})
		require.NoError(t, f.Close())
	}
	select {
	case err := <-full:
		require.Fail(t, "a stream that nobody reads took a megabyte", "%v", err)
	default:
	}
	buf := make([]byte, 64<<10)
	for got := 0; got < 1<<20; {
		n, err := stalled.ReadAt(buf, 0)
		require.NoError(t, err)
		got += n
	}
	require.NoError(t, <-full)
}

// TestVsockEnds ends the guest in each of the ways there are, with streams open in
// every state, and looks at that all of them end, and that the events say so.
func TestVsockEnds(t *testing.T) {
	for verb, lost := range map[string]string{"kill": "ended", "stop": "ended", "poweroff": "ended", "reset": "reset"} {
		t.Run(verb, func(t *testing.T) {
			root, _ := vsockTree(t, Options{})
			events := follow(t, root, "web/events")
			reader := mustOpen(t, root, "web/vsock/7", p9.ReadOnly)
			writer := mustOpen(t, root, "web/vsock/7", p9.ReadWrite)
			ctl, path := converse(t, root)
			mustWriteTo(t, ctl, "connect 7")
			shared := mustOpen(t, root, path+"/data", p9.ReadOnly)
			ended := make(chan string, 3)
			for _, f := range []p9.File{reader, shared} {
				go func() {
					text, err := readAll(f)
					if err != nil && errnoFrom(err) != linux.ECONNRESET {
						text = err.Error()
					}
					ended <- text
				}()
			}
			go func() {
				err := put(writer, make([]byte, 1<<20))
				if e := errnoFrom(err); e != linux.ECONNRESET && e != linux.EPIPE {
					ended <- fmt.Sprintf("write: %v", err)
				}
				ended <- ""
			}()
			require.Eventually(t, func() bool { return strings.Contains(cat(t, root, path+"/status"), "established") }, 10*time.Second, time.Millisecond)
			time.Sleep(20 * time.Millisecond) // so that some of them block
			mustWrite(t, root, "web/ctl", verb)
			soon(t, "a stream of a guest that is gone", func() {
				for range 3 {
					assert.Empty(t, <-ended)
				}
			})
			if text := events.expect(" vsock "); verb != "kill" {
				assert.Contains(t, text, "lost="+lost)
			}
			if verb == "reset" {
				f := mustOpen(t, root, "web/vsock/7", p9.ReadWrite)
				require.NoError(t, put(f, []byte("again")))
				n, err := f.ReadAt(make([]byte, 10), 0)
				require.NoError(t, err)
				assert.Equal(t, 5, n, "the guest that began anew is reached")
			}
		})
	}
}

// TestVsockListen takes the guest's own connections, by both ways to listen.
func TestVsockListen(t *testing.T) {
	root, _ := vsockTree(t, Options{})
	opened := make(chan p9.File, 1)
	open := func(path string) {
		_, f, err := root.Walk(strings.Split(path, "/"))
		if assert.NoError(t, err) {
			_, _, err = f.Open(p9.ReadWrite)
			assert.NoError(t, err)
		}
		opened <- f
	}
	heard := func(port, word string) p9.File {
		t.Helper()
		for {
			mustWrite(t, root, "web/console", "dial "+port+" "+word)
			select {
			case f := <-opened:
				buf := make([]byte, 100)
				n, err := f.ReadAt(buf, 0)
				require.NoError(t, err)
				assert.Equal(t, word+"\n", string(buf[:n]))
				return f
			case <-time.After(50 * time.Millisecond): // nobody listened yet
			}
		}
	}
	go open("web/vsock/listen/514")
	f := heard("514", "one")
	mustWriteTo(t, f, "echo")
	buf := make([]byte, 100)
	n, err := f.ReadAt(buf, 0)
	require.NoError(t, err)
	assert.Equal(t, "echo", string(buf[:n]))
	require.NoError(t, f.Close())

	ctl, path := converse(t, root)
	mustWriteTo(t, ctl, "announce 515")
	assert.Contains(t, cat(t, root, path+"/status"), "state=announced\nport=515\n")
	go open(path + "/data")
	require.NoError(t, heard("515", "two").Close())
	require.NoError(t, ctl.Close())

	// Whoever waits is told of the conversation's end, or of the VM's.
	ctl, path = converse(t, root)
	mustWriteTo(t, ctl, "announce 516")
	failed := make(chan linux.Errno, 1)
	await := func(path string) {
		go func() {
			_, f, err := root.Walk(strings.Split(path, "/"))
			if err == nil {
				_, _, err = f.Open(p9.ReadOnly)
				f.Close() // not before: the client's finalizer would
			}
			failed <- errnoFrom(err)
		}()
	}
	await(path + "/data")
	time.Sleep(10 * time.Millisecond)
	mustWriteTo(t, ctl, "hangup")
	assert.Equal(t, linux.ENOTCONN, <-failed)
	await("web/vsock/listen/517")
	time.Sleep(10 * time.Millisecond)
	mustWrite(t, root, "web/ctl", "kill")
	assert.Equal(t, linux.ENXIO, <-failed)
}

// TestVsockTreeClose ends a tree with streams of every kind.
func TestVsockTreeClose(t *testing.T) {
	root, tree := vsockTree(t, Options{Linger: time.Hour})
	f := mustOpen(t, root, "web/vsock/19", p9.ReadWrite)
	mustWriteTo(t, f, "x")
	require.NoError(t, f.Close()) // kept, as the guest never ends it
	waits := make(chan error, 1)
	go func() { _, err := open(t, root, "web/vsock/listen/5", p9.ReadOnly); waits <- err }()
	time.Sleep(10 * time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	soon(t, "the tree's end", func() { tree.Close(ctx) })
	assert.Equal(t, linux.EIO, errnoFrom(<-waits))
	_, err := open(t, root, "web/vsock/7", p9.ReadOnly)
	assert.Equal(t, linux.EIO, errnoFrom(err))
}

// TestVsockPermissions holds that streams are under the VM's mode.
func TestVsockPermissions(t *testing.T) {
	root, tree := vsockTree(t, Options{})
	vm, _ := tree.host.VM("web")
	o := vm.Owner()
	o.Mode = 0o740
	o.GID = 4242
	require.NoError(t, vm.SetOwner(o))
	at := func(w *who, path string, mode p9.OpenFlags) error {
		_, f, err := tree.root(w).Walk(strings.Split(path, "/"))
		if err != nil {
			return err
		}
		defer f.Close()
		_, _, err = f.Open(mode)
		return err
	}
	member, other := &who{uid: 4243, gids: []uint32{4242}}, &who{uid: 4244, gids: []uint32{4244}}
	owner := &who{uid: o.UID}
	member, other, anybody := &who{uid: 4243, gids: []uint32{4242}}, &who{uid: 4244, gids: []uint32{4244}}, &who{uid: nobody, readonly: true}
	ctl, conv := converse(t, root)
	mustWriteTo(t, ctl, "connect 7")
	for _, path := range []string{"web/vsock/13", "web/vsock/4242", "web/vsock/clone", "web/vsock/listen/13", conv + "/ctl", conv + "/data"} {
		for _, w := range []*who{member, other, anybody} {
			for _, mode := range []p9.OpenFlags{p9.ReadOnly, p9.WriteOnly, p9.ReadWrite} {
				assert.Equal(t, linux.EACCES, errnoFrom(at(w, path, mode)), "%s, %s, %d", w, path, mode)
			}
		}
	}
	assert.NoError(t, at(owner, "web/vsock/13", p9.ReadOnly))
	for path, want := range map[string]p9.FileMode{"web/vsock/13": 0o600, conv + "/data": 0o600, conv + "/status": 0o440, "web/console": 0o640} {
		_, f, err := root.Walk(strings.Split(path, "/"))
		require.NoError(t, err, path)
		_, _, a, err := f.GetAttr(p9.AttrMaskAll)
		require.NoError(t, err, path)
		assert.Equal(t, want, a.Mode.Permissions(), path)
	}
	o.Mode = 0o760
	require.NoError(t, vm.SetOwner(o))
	assert.NoError(t, at(member, "web/vsock/13", p9.ReadOnly), "who may write may open a port to read as well")
}

// TestVsockReaderLeavesNoTrace holds that who may only read a VM does nothing by opening
// its vsock's files: no error, no event, no number, no stream, and no line of another's.
func TestVsockReaderLeavesNoTrace(t *testing.T) {
	root, tree := vsockTree(t, Options{})
	vm, _ := tree.host.VM("web")
	o := vm.Owner()
	o.Mode = 0o744
	require.NoError(t, vm.SetOwner(o))
	mustWrite(t, root, "web/console", "hello")
	require.Error(t, write(t, root, "web/ctl", "frob"))
	listener := follow(t, root, "web/console") // of the guest, to know when it is ready
	listener.expect("hello")
	heard := make(chan string, 1)
	go func() {
		_, f, err := root.Walk([]string{"web", "vsock", "listen", "514"})
		if assert.NoError(t, err) {
			_, _, err = f.Open(p9.ReadWrite)
			assert.NoError(t, err)
		}
		buf := make([]byte, 100)
		n, err := f.ReadAt(buf, 0)
		assert.NoError(t, err)
		assert.NoError(t, f.Close())
		heard <- string(buf[:n])
	}()
	told, err := vm.History()
	require.NoError(t, err)
	before, gen := vm.LastError(), vm.Gen()
	reader := &who{uid: 4243}
	for range 300 {
		for _, name := range []string{"7", "13", "22", "4242", "clone", "listen/514", "listen/7"} {
			_, f, err := tree.root(reader).Walk(strings.Split("web/vsock/"+name, "/"))
			require.NoError(t, err)
			_, _, err = f.Open(p9.ReadOnly)
			require.Equal(t, linux.EACCES, errnoFrom(err))
			require.NoError(t, f.Close())
		}
	}
	after, err := vm.History()
	require.NoError(t, err)
	assert.Equal(t, told, after)
	assert.Equal(t, before, vm.LastError())
	assert.Equal(t, gen, vm.Gen())
	_, path := converse(t, root)
	assert.Equal(t, "web/vsock/c0", path)
	soon(t, "the guest's line for who listens", func() {
		for {
			mustWrite(t, root, "web/console", "dial 514 for-root")
			select {
			case text := <-heard:
				assert.Equal(t, "for-root\n", text)
				return
			case <-time.After(50 * time.Millisecond): // nobody listened yet
			}
		}
	})
}
