package qmp_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	goqemu "github.com/digitalocean/go-qemu/qmp"
	"github.com/digitalocean/go-qemu/qmp/raw"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/qemu/qmp"
	"vmfs/backends/qemu/qmp/qmptest"
)

const patience = 20 * time.Second

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// pair returns a connection, not yet started, and QEMU's end of it.
func pair(t *testing.T) (*qmp.Conn, *net.UnixConn) {
	dir, err := os.MkdirTemp("/tmp", "vmfs")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	require.NoError(t, err)
	defer l.Close()
	c, err := qmp.Dial(testContext(t), filepath.Join(dir, "s"))
	require.NoError(t, err)
	nc, err := l.Accept()
	require.NoError(t, err)
	require.NoError(t, nc.SetDeadline(time.Now().Add(patience)))
	t.Cleanup(func() { _ = c.Close(); _ = nc.Close() })
	return c, nc.(*net.UnixConn)
}

// play plays script in the background; the test fails when it does not go as
// written or has not ended with the test.
func play(t *testing.T, nc *net.UnixConn, script string) (done <-chan struct{}) {
	p, ch := qmptest.NewPlayer(nc), make(chan struct{})
	go func() {
		defer close(ch)
		assert.NoError(t, p.Play(script))
	}()
	t.Cleanup(func() {
		select {
		case <-ch:
		case <-time.After(patience):
			t.Error("the dialogue was not played to its end")
		}
	})
	return ch
}

func TestExecute(t *testing.T) {
	c, nc := pair(t)
	play(t, nc, qmptest.Greeting+`
		C: query-status
		S: {"return": {"status": "running", "singlestep": false, "running": true}, "id": ${}}
		C: balloon {"value": 1048576}
		S: {"id": ${}, "error": {"class": "GenericError", "desc": "no balloon, sorry"}}
		C: stop
		S: {"return": {}, "id": ${}}`)
	c.Start()
	ctx := testContext(t)
	require.NoError(t, c.Ready(ctx))
	assert.Equal(t, "7.2.22", c.Version().String())

	var status struct{ Status string }
	require.NoError(t, c.Execute(ctx, "query-status", nil, &status))
	assert.Equal(t, "running", status.Status)

	err := c.Execute(ctx, "balloon", map[string]int{"value": 1 << 20}, nil)
	var qerr *qmp.Error
	require.ErrorAs(t, err, &qerr)
	assert.Equal(t, qmp.Error{Command: "balloon", Class: qmp.ClassGeneric, Desc: "no balloon, sorry"}, *qerr)
	assert.Contains(t, err.Error(), "no balloon, sorry")

	require.NoError(t, c.Execute(ctx, "stop", nil, nil))
}

// Replies are told apart by id, so that their order does not matter and one
// that comes too late is nobody's.
func TestRepliesOutOfOrderAndLate(t *testing.T) {
	c, nc := pair(t)
	c.Start()
	ctx := testContext(t)
	require.NoError(t, qmptest.NewPlayer(nc).Play(qmptest.Greeting))
	type cmd struct {
		Execute   string
		ID        json.RawMessage
		Arguments struct{ N int }
	}
	dec := json.NewDecoder(nc)

	short, cancel := context.WithCancel(ctx)
	errc := make(chan error, 1)
	go func() { errc <- c.Execute(short, "first", nil, nil) }()
	var first cmd
	require.NoError(t, dec.Decode(&first))
	cancel()
	require.ErrorIs(t, <-errc, context.Canceled)

	var wg sync.WaitGroup
	got := make([]string, 2)
	for i := range got {
		wg.Go(func() {
			assert.NoError(t, c.Execute(ctx, "echo", map[string]int{"n": i}, &got[i]))
		})
	}
	// Answer the two in the opposite order, each with its own number, after the
	// reply to the abandoned command and replies to nobody.
	var cmds [2]cmd
	for i := range cmds {
		require.NoError(t, dec.Decode(&cmds[i]))
	}
	fmt.Fprintf(nc, "{\"return\": \"late\", \"id\": %s}\n{\"return\": {}}\n{\"return\": {}, \"id\": 77}\n", first.ID)
	for _, x := range []cmd{cmds[1], cmds[0]} {
		fmt.Fprintf(nc, "{\"return\": \"echo %d\", \"id\": %s}\n", x.Arguments.N, x.ID)
	}
	wg.Wait()
	assert.Equal(t, []string{"echo 0", "echo 1"}, got)
}

func TestEventsAreFannedOutInOrderAmongReplies(t *testing.T) {
	c, nc := pair(t)
	early, idle := c.Subscribe(), c.Subscribe()
	play(t, nc, qmptest.Greeting+`
		S: {"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}
		C: stop
		S: {"timestamp": {"seconds": 3, "microseconds": 4}, "event": "RESET", "data": {"guest": true, "reason": "guest-reset"}}
		S: {"return": {}, "id": ${}}`)
	c.Start()
	ctx := testContext(t)
	require.NoError(t, c.Execute(ctx, "stop", nil, nil))
	late := c.Subscribe()
	for _, want := range []string{"STOP", "RESET"} {
		ev, err := early.Next(ctx)
		require.NoError(t, err)
		assert.Equal(t, want, ev.Event)
		if want == "RESET" {
			assert.Equal(t, "guest-reset", ev.Data["reason"])
			assert.EqualValues(t, 3, ev.Timestamp.Seconds)
		}
	}
	require.NoError(t, nc.Close())
	_, err := early.Next(ctx)
	require.ErrorIs(t, err, qmp.ErrDisconnected)
	_, err = late.Next(ctx)
	require.ErrorIs(t, err, qmp.ErrDisconnected)
	ev, err := idle.Next(ctx) // what was queued outlives the connection
	require.NoError(t, err)
	assert.Equal(t, "STOP", ev.Event)
}

// A subscriber that takes nothing costs the connection nothing but a bounded
// queue.
func TestEventFloodDoesNotBlock(t *testing.T) {
	c, nc := pair(t)
	idle := c.Subscribe()
	const n = 10000
	var flood strings.Builder
	for i := range n {
		fmt.Fprintf(&flood, "S: {\"event\": \"E\", \"data\": {\"i\": %d}, \"timestamp\": {\"seconds\": 0, \"microseconds\": 0}}\n", i)
	}
	play(t, nc, qmptest.Greeting+flood.String()+`
		C: query-name
		S: {"return": {}, "id": ${}}`)
	c.Start()
	ctx := testContext(t)
	require.NoError(t, c.Execute(ctx, "query-name", nil, nil))
	ev, err := idle.Next(ctx)
	require.NoError(t, err)
	require.Equal(t, qmp.EventLost, ev.Event)
	lost := ev.Data["n"]
	require.Positive(t, lost)
	ev, err = idle.Next(ctx)
	require.NoError(t, err)
	assert.EqualValues(t, lost, ev.Data["i"], "the oldest are dropped")
}

func TestHugeLine(t *testing.T) {
	c, nc := pair(t)
	huge := strings.Repeat("x", 1<<20-100)
	play(t, nc, qmptest.Greeting+`
		C: query-qmp-schema
		S: {"return": "`+huge+`", "id": ${}}
		C: echo {"text": "`+huge[:300000]+`"}
		S: {"return": {}, "id": ${}}`)
	c.Start()
	ctx := testContext(t)
	var got string
	require.NoError(t, c.Execute(ctx, "query-qmp-schema", nil, &got))
	assert.Len(t, got, len(huge))
	require.NoError(t, c.Execute(ctx, "echo", map[string]string{"text": huge[:300000]}, nil))
}

// TestHostilePeer is a monitor that was taken over: what it makes the server hold is bounded,
// whatever it sends and however long nobody takes it.
func TestHostilePeer(t *testing.T) {
	held := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	for name, event := range map[string]string{
		"long data":     `{"event": "E", "data": {"x": "` + strings.Repeat("x", 60<<10) + `"}}`,
		"longer data":   `{"event": "E", "data": {"x": "` + strings.Repeat("x", 1000<<10) + `"}}`,
		"many values":   `{"event": "E", "data": {"x": [` + strings.Repeat("1,", 30<<10) + `1]}}`,
		"nested values": `{"event": "E", "data": {"x": ` + strings.Repeat("[", 3000) + strings.Repeat("]", 3000) + `}}`,
		"long names":    `{"event": "` + strings.Repeat("E", 60<<10) + `"}`,
	} {
		t.Run(name, func(t *testing.T) {
			c, nc := pair(t)
			idle := c.Subscribe()
			c.Start()
			ctx, cancel := context.WithTimeout(t.Context(), 5*patience) // it is a lot to read
			defer cancel()
			require.NoError(t, nc.SetDeadline(time.Now().Add(5*patience)))
			require.NoError(t, qmptest.NewPlayer(nc).Play(qmptest.Greeting))
			require.NoError(t, c.Ready(ctx))
			before := held()
			most := 16 << 20
			if strings.Count(event, "x") == 1 { // what takes much more in memory than on the way
				most = 1 << 20
			}
			for sent := 0; sent < most; sent += len(event) {
				_, err := io.WriteString(nc, event+"\n")
				require.NoError(t, err)
			}
			play(t, nc, `C: query-name
				S: {"return": {}, "id": ${}}`)
			require.NoError(t, c.Execute(ctx, "query-name", nil, nil), "it is served all the same")
			assert.Less(t, int64(held())-int64(before), int64(12<<20))
			ev, err := idle.Next(ctx)
			require.NoError(t, err)
			assert.LessOrEqual(t, len(ev.Event), 64<<10)
			require.NoError(t, c.Close())
		})
	}
	t.Run("a line without an end", func(t *testing.T) {
		c, nc := pair(t)
		c.Start()
		require.NoError(t, qmptest.NewPlayer(nc).Play(qmptest.Greeting))
		part := strings.Repeat("x", 64<<10)
		for range 1000 {
			if _, err := io.WriteString(nc, part); err != nil {
				break
			}
		}
		<-c.Done()
		require.ErrorIs(t, c.Err(), qmp.ErrProtocol)
		assert.Less(t, len(c.Err().Error()), 200)
	})
	t.Run("words", func(t *testing.T) {
		c, nc := pair(t)
		play(t, nc, qmptest.Greeting+`
			C: stop
			S: {"id": ${}, "error": {"class": "`+strings.Repeat("c", 100000)+`", "desc": "`+strings.Repeat("d", 100000)+`"}}`)
		c.Start()
		err := c.Execute(testContext(t), "stop", nil, nil)
		require.Error(t, err)
		assert.Less(t, len(err.Error()), 3000)
	})
}

func TestGarbageEndsTheConnection(t *testing.T) {
	for name, text := range map[string]string{
		"not JSON":              "SSH-2.0-OpenSSH_9.2\n",
		"no greeting":           "{\"return\": {}}\n",
		"JSON but no object":    "[1,2]\n",
		"wrong types":           "{\"event\": 7}\n",
		"NULs":                  "\x00\x00\x00\n",
		"refused capabilities":  "{\"QMP\": {\"version\": {}}}\n{\"id\": \"1\", \"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}}\n",
		"event of a wrong type": "{\"QMP\": {}}\n{\"event\": \"A\", \"data\": 3}\n",
	} {
		t.Run(name, func(t *testing.T) {
			c, nc := pair(t)
			c.Start()
			if strings.Contains(text, "\"id\"") { // answer only what was asked
				greeting, rest, _ := strings.Cut(text, "\n")
				_, err := nc.Write([]byte(greeting + "\n"))
				require.NoError(t, err)
				_, err = nc.Read(make([]byte, 1000))
				require.NoError(t, err)
				text = rest
			}
			_, err := nc.Write([]byte(text))
			require.NoError(t, err)
			require.ErrorIs(t, c.Execute(testContext(t), "stop", nil, nil), qmp.ErrProtocol)
			<-c.Done()
			require.ErrorIs(t, c.Err(), qmp.ErrProtocol)
		})
	}
}

func TestHungQEMU(t *testing.T) {
	c, nc := pair(t)
	c.Start()
	short := func() context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	// No greeting.
	require.ErrorIs(t, c.Execute(short(), "stop", nil, nil), context.DeadlineExceeded)
	play := qmptest.NewPlayer(nc)
	require.NoError(t, play.Play(qmptest.Greeting))
	require.NoError(t, c.Ready(testContext(t)))
	// No replies, until not even the socket takes any more.
	big := map[string]string{"x": strings.Repeat("y", 100<<10)}
	for range 10 {
		require.ErrorIs(t, c.Execute(short(), "stop", big, nil), context.DeadlineExceeded)
	}
	// QEMU goes on: reads all that was sent, answers that late, then answers in time.
	errc := make(chan error, 1)
	var name string
	go func() { errc <- c.Execute(testContext(t), "query-name", nil, &name) }()
	dec := json.NewDecoder(nc)
	for {
		var x struct{ Execute, ID string }
		require.NoError(t, dec.Decode(&x))
		fmt.Fprintf(nc, "{\"return\": %q, \"id\": %q}\n", x.Execute, x.ID)
		if x.Execute == "query-name" {
			break
		}
	}
	require.NoError(t, <-errc)
	assert.Equal(t, "query-name", name)
}

func TestCloseWakesAll(t *testing.T) {
	c, nc := pair(t)
	sub := c.Subscribe()
	c.Start()
	require.NoError(t, qmptest.NewPlayer(nc).Play(qmptest.Greeting))
	ctx := testContext(t)
	errs := make(chan error, 3)
	go func() { errs <- c.Execute(ctx, "stop", nil, nil) }()
	go func() { _, err := sub.Next(ctx); errs <- err }()
	go func() { <-c.Done(); errs <- c.Err() }()
	_, err := nc.Read(make([]byte, 100)) // the command is with QEMU
	require.NoError(t, err)
	require.NoError(t, c.Close())
	for range cap(errs) {
		require.ErrorIs(t, <-errs, qmp.ErrClosed)
	}
	require.ErrorIs(t, c.Execute(ctx, "stop", nil, nil), qmp.ErrClosed)
	_, err = c.Subscribe().Next(ctx)
	require.ErrorIs(t, err, qmp.ErrClosed)
	c.Start()
	require.NoError(t, c.Close())
}

func TestCloseBeforeStart(t *testing.T) {
	c, _ := pair(t)
	require.NoError(t, c.Close())
	c.Start()
	require.ErrorIs(t, c.Ready(testContext(t)), qmp.ErrClosed)
}

// A reply that QEMU sends right before it goes is still a reply.
func TestReplyThenGone(t *testing.T) {
	c, nc := pair(t)
	done := play(t, nc, qmptest.Greeting+"C: quit\nS: {\"return\": {}, \"id\": ${}}")
	go func() { <-done; _ = nc.Close() }()
	c.Start()
	require.NoError(t, c.Execute(testContext(t), "quit", nil, nil))
	<-c.Done()
	require.ErrorIs(t, c.Execute(testContext(t), "stop", nil, nil), qmp.ErrDisconnected)
}

func TestFiles(t *testing.T) {
	c, nc := pair(t)
	play(t, nc, qmptest.Greeting+`
		C: getfd {"fdname": "a"}
		F: 2
		S: {"return": {}, "id": ${}}
		C: stop
		F: 0
		S: {"return": {}, "id": ${}}`)
	c.Start()
	ctx := testContext(t)
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	args := map[string]string{"fdname": "a"}
	require.NoError(t, c.ExecuteFiles(ctx, "getfd", args, nil, r, w))
	require.NoError(t, w.Close(), "the caller keeps its files")
	// A closed file fails the command, not the connection.
	require.Error(t, c.ExecuteFiles(ctx, "getfd", args, nil, r, w))
	require.NoError(t, c.Execute(ctx, "stop", nil, nil))
}

func TestMonitorServesGoQEMU(t *testing.T) {
	c, nc := pair(t)
	go2, cancel := context.WithCancel(t.Context())
	defer cancel()
	m := c.Monitor(go2)
	p := qmptest.NewPlayer(nc)
	errc := make(chan error, 1)
	go func() { errc <- p.Play(qmptest.Greeting) }()
	require.NoError(t, m.Connect())
	require.NoError(t, <-errc)
	events, err := m.Events(go2)
	require.NoError(t, err)
	go func() {
		errc <- p.Play(`
			C: query-status
			S: {"return": {"status": "guest-panicked", "singlestep": false, "running": false}, "id": ${}}
			C: balloon {"value": 5}
			S: {"id": ${}, "error": {"class": "DeviceNotActive", "desc": "No balloon device has been activated"}}
			S: {"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 0}}`)
	}()
	r := raw.NewMonitor(m)
	status, err := r.QueryStatus()
	require.NoError(t, err)
	assert.Equal(t, raw.RunStateGuestPanicked, status.Status)
	var qerr *qmp.Error
	require.ErrorAs(t, r.Balloon(5), &qerr)
	assert.Equal(t, qmp.ClassDeviceNotActive, qerr.Class)
	require.NoError(t, <-errc)
	var ev goqemu.Event = <-events
	assert.Equal(t, "STOP", ev.Event)

	go func() { errc <- r.Stop() }()
	require.NoError(t, p.Play("C: stop"))
	cancel()
	require.ErrorIs(t, <-errc, context.Canceled, "typed calls obey the context")
	for range events {
	}
	require.NoError(t, m.Disconnect())
	_, err = m.Run([]byte("{"))
	require.Error(t, err)
	_, err = m.Events(t.Context())
	require.ErrorIs(t, err, qmp.ErrClosed)
}
