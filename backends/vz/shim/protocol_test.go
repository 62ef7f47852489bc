package shim_test

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/vz/fakeengine"
	"vmfs/backends/vz/shimapi"
)

const hello = `{"id":1,"method":"hello","params":{"min":1,"max":1}}` + "\n"

// TestNotOfTheProtocol is what ends a conversation, and that alone: each is told why, and
// the VM and other clients do not notice.
func TestNotOfTheProtocol(t *testing.T) {
	r := boot(t)
	r.ask(shimapi.MethodStart, nil, nil)
	for name, c := range map[string]struct{ said, code, why string }{
		"no JSON":            {"GET / HTTP/1.1\r\n\r\n", "protocol", "invalid character"},
		"another type":       {"[1]\n", "protocol", "cannot unmarshal"},
		"an unknown field":   {`{"id":1,"method":"hello","params":{"min":1,"max":1},"force":true}` + "\n", "protocol", "unknown field"},
		"two in a line":      {strings.TrimSpace(hello) + hello, "protocol", "more behind"},
		"no hello":           {`{"id":1,"method":"info"}` + "\n", "protocol", "first request is not hello"},
		"an odd hello":       {`{"id":1,"method":"hello","params":{"versions":[1]}}` + "\n", "protocol", "unknown field"},
		"another hello":      {hello + strings.Replace(hello, `"id":1`, `"id":2`, 1), "protocol", "another hello"},
		"the id again":       {hello + `{"id":2,"method":"info"}` + "\n" + `{"id":2,"method":"info"}` + "\n", "protocol", "request 2 after request 2"},
		"an id out of order": {hello + `{"id":7,"method":"info"}` + "\n" + `{"id":3,"method":"pause"}` + "\n", "protocol", "request 3 after request 7"},
		"no id":              {`{"method":"hello","params":{"min":1,"max":1}}` + "\n", "protocol", "request 0 after request 0"},
		"a long line":        {hello + `{"id":2,"method":"` + strings.Repeat("a", shimapi.MaxLine) + `"}` + "\n", "protocol", "a line of more than"},
		"a later version":    {strings.Replace(hello, `"min":1,"max":1`, `"min":2,"max":3`, 1), "version", "speaks the versions 1 to 1, and the server 2 to 3"},
		"an earlier version": {strings.Replace(hello, `"min":1,"max":1`, `"min":0,"max":0`, 1), "version", "speaks the versions 1 to 1, and the server 0 to 0"},
	} {
		t.Run(name, func(t *testing.T) {
			conn := r.raw()
			_, err := io.WriteString(conn, c.said)
			require.NoError(t, err)
			said := tail(t, conn)
			assert.Contains(t, said, `"code":"`+c.code+`"`)
			assert.Contains(t, said, c.why)
		})
	}
	t.Run("a line without an end", func(t *testing.T) {
		conn := r.raw()
		_, err := io.WriteString(conn, hello+`{"id":2,"method":"kill"}`)
		require.NoError(t, err)
		require.NoError(t, conn.CloseWrite())
		assert.Contains(t, tail(t, conn), "the last line has no end")
		assert.Empty(t, r.killed, "what was cut off is not done")
	})
	assert.Equal(t, shimapi.PhaseRunning, r.info().Phase)
}

// TestRefusals is what a request is refused for, and the conversation goes on.
func TestRefusals(t *testing.T) {
	r := boot(t)
	conn := r.raw()
	answers := bufio.NewReader(conn)
	ask := func(line string) string {
		_, err := io.WriteString(conn, line)
		require.NoError(t, err)
		answer, err := answers.ReadString('\n')
		require.NoError(t, err)
		return answer
	}
	assert.Contains(t, ask(hello), `"name":"web"`)
	for i, c := range []struct{ said, code string }{
		{`"method":"rosetta"`, "unknown"},
		{`"method":"info","params":{"verbose":true}`, "unknown"},
		{`"method":"pause","params":{"for":"1s"}`, "unknown"},
		{`"method":"stop","params":{"force":true}`, "unknown"},
		{`"method":"cancel","params":{"all":true}`, "unknown"},
		{`"method":"events","params":{"from":1}`, "unknown"},
		{`"method":"balloon","params":{"bytes":"64M"}`, "unknown"},
		{`"method":"balloon","params":{"bytes":1}`, "invalid"},
		{`"method":"balloon","params":{"bytes":68157440}`, "invalid"},
		{`"method":"balloon","params":{"bytes":-1048576}`, "invalid"},
		{`"method":"events","params":{"seq":99}`, "invalid"},
		{`"method":"snapshot","params":{"path":"state"}`, "invalid"},
		{`"method":"pause"`, "busy"},
		{`"method":"resume"`, "busy"},
		{`"method":"poweroff"`, "busy"},
		{`"method":"snapshot","params":{"path":"/nowhere/state"}`, "busy"},
		{`"method":"balloon","params":{"bytes":33554432}`, "busy"},
	} {
		answer := ask(fmt.Sprintf(`{"id":%d,%s}`+"\n", i+2, c.said))
		assert.Contains(t, answer, fmt.Sprintf(`"id":%d,`, i+2))
		assert.Contains(t, answer, `"code":"`+c.code+`"`, c.said)
	}
	assert.Equal(t, shimapi.PhaseCreated, r.info().Phase)
}

// TestDuplicates sends everything twice, as a server does that came back and does not know
// what the one before it was told: nothing happens twice.
func TestDuplicates(t *testing.T) {
	r := boot(t)
	again := r.connect()
	twice := func(m shimapi.Method, params any) error {
		t.Helper()
		r.ask(m, params, nil)
		return again.Call(t.Context(), m, params, nil)
	}
	var said *shimapi.Error
	require.ErrorAs(t, twice(shimapi.MethodStart, nil), &said)
	assert.Equal(t, shimapi.CodeBusy, said.Code)
	require.NoError(t, twice(shimapi.MethodPause, nil))
	require.ErrorAs(t, twice(shimapi.MethodSave, shimapi.File{Path: r.path("state")}), &said)
	assert.Equal(t, shimapi.CodeInvalid, said.Code, "the state that is there stays as it is")
	assert.FileExists(t, r.path("state"))
	require.NoError(t, twice(shimapi.MethodMemory, shimapi.Memory{Bytes: 48 << 20}))
	require.NoError(t, twice(shimapi.MethodResume, nil))
	r.ask(shimapi.MethodEvents, shimapi.After{}, nil)
	require.ErrorAs(t, r.client.Call(t.Context(), shimapi.MethodEvents, shimapi.After{}, nil), &said)
	assert.Equal(t, shimapi.CodeBusy, said.Code)
	r.ask(shimapi.MethodStop, nil, nil)
	_ = again.Call(t.Context(), shimapi.MethodStop, nil, nil) // the shim may be gone
	var kinds []shimapi.EventKind
	for _, e := range until(t, r.client, shimapi.EventEnded) {
		kinds = append(kinds, e.Kind)
	}
	assert.Equal(t, []shimapi.EventKind{shimapi.EventRunning, shimapi.EventPaused, shimapi.EventRunning, shimapi.EventEnded}, kinds)
	<-r.done
	assert.NoError(t, r.err)
}

// TestEvents is a server that goes and comes back: it misses nothing, and gets nothing twice.
func TestEvents(t *testing.T) {
	r := boot(t)
	r.ask(shimapi.MethodEvents, shimapi.After{}, nil)
	r.ask(shimapi.MethodStart, nil, nil)
	first := until(t, r.client, shimapi.EventRunning)
	require.NoError(t, r.client.Close())

	other := r.connect()
	for range 3 {
		require.NoError(t, other.Call(t.Context(), shimapi.MethodPause, nil, nil))
		require.NoError(t, other.Call(t.Context(), shimapi.MethodResume, nil, nil))
	}
	require.NoError(t, other.Call(t.Context(), shimapi.MethodPowerOff, nil, nil))

	back := r.connect()
	require.NoError(t, back.Call(t.Context(), shimapi.MethodEvents, shimapi.After{Seq: first[len(first)-1].Seq}, nil))
	events := append(first, until(t, back, shimapi.EventEnded)...)
	for i, e := range events {
		assert.EqualValues(t, i+1, e.Seq)
	}
	assert.Equal(t, shimapi.ReasonGuest, events[len(events)-1].Reason)
	// The shim stays until somebody has taken note.
	var info shimapi.Info
	require.NoError(t, back.Call(t.Context(), shimapi.MethodInfo, nil, &info))
	assert.Equal(t, shimapi.PhaseEnded, info.Phase)
	assert.Equal(t, shimapi.ReasonGuest, info.Reason)
	require.NoError(t, back.Call(t.Context(), shimapi.MethodQuit, nil, nil))
	<-r.done
	assert.NoError(t, r.err)
}

// TestForgottenEvents tells a server that was away for long how many it has missed.
func TestForgottenEvents(t *testing.T) {
	r := boot(t, func(c *shimConfig) { c.Engine = fakeengine.New(fakeengine.Config{}) })
	r.ask(shimapi.MethodStart, nil, nil)
	for range 600 {
		r.ask(shimapi.MethodPause, nil, nil)
		r.ask(shimapi.MethodResume, nil, nil)
	}
	r.ask(shimapi.MethodEvents, shimapi.After{Seq: 1}, nil)
	e, err := r.client.NextEvent(t.Context())
	require.NoError(t, err)
	assert.Equal(t, shimapi.EventLost, e.Kind)
	assert.Equal(t, "176", e.Detail) // 1201 events, of which 1024 are kept and the first is known
	next, err := r.client.NextEvent(t.Context())
	require.NoError(t, err)
	assert.Equal(t, e.Seq+1, next.Seq)
}
