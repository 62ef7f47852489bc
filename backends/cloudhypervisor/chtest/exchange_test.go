package chtest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/cloudhypervisor/api"
	"vmfs/backends/process"
	"vmfs/internal/unixsock"
	"vmfs/internal/wait"
)

// A recording is what a Cloud Hypervisor said to the script.
type recording struct {
	Version string  `json:"version"` // as vmm.ping says it
	Scenes  []scene `json:"scenes"`
}

// A scene is the exchanges with one VMM from its start on, and the events that it wrote.
type scene struct {
	Name      string     `json:"name"`
	Exchanges []exchange `json:"exchanges"`
	Events    []string   `json:"events"` // as "vm paused", without those of devices
}

// An exchange is one request and its answer. Paths in it are $DIR, $KERNEL and $INITRD.
type exchange struct {
	Step   string          `json:"step"`
	Method string          `json:"method"`
	Call   string          `json:"call"`
	Body   json.RawMessage `json:"body,omitempty"`
	Status int             `json:"status"`
	Answer json.RawMessage `json:"answer,omitempty"`
}

// A player plays the script to a program, and records.
type player struct {
	t       *testing.T
	program string
	dir     string // where the script's files are
	paths   *strings.Replacer
	names   *strings.Replacer
	rec     recording

	// Of the scene that is played:
	scene   *scene
	cmd     *exec.Cmd
	ended   chan struct{} // closed when the process has been waited for
	output  bytes.Buffer  // of the process; to be read when it has ended
	client  *http.Client
	console *consoleReader
}

// patience bounds each step: a guest takes a minute to boot where all is emulated.
const patience = 3 * time.Minute

// play plays the whole script.
func play(t *testing.T, program, kernel, initrd string) recording {
	dir, err := os.MkdirTemp("/tmp", "vmfs") // short enough for sockets
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p := &player{
		t: t, program: program, dir: dir,
		paths: strings.NewReplacer("$DIR", dir, "$KERNEL", kernel, "$INITRD", initrd),
		names: strings.NewReplacer(dir, "$DIR", kernel, "$KERNEL", initrd, "$INITRD"),
	}
	for _, s := range script {
		p.begin(s.name)
		s.play(p)
		p.end()
	}
	return p.rec
}

func (p *player) path(name string) string { return filepath.Join(p.dir, name) }

// begin starts a VMM.
func (p *player) begin(name string) {
	socket := p.path("api.sock")
	p.rec.Scenes = append(p.rec.Scenes, scene{Name: name})
	p.scene = &p.rec.Scenes[len(p.rec.Scenes)-1]
	p.output.Reset()
	p.cmd = exec.Command(p.program, "--api-socket", "path="+socket, "--event-monitor", "path="+p.path("events.json"), "--no-shutdown")
	p.cmd.Env = process.Environment() // as vmfs starts it: Rust would add traces of its stack to its words
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	require.NoError(p.t, p.cmd.Start())
	cmd, ended := p.cmd, make(chan struct{})
	p.ended = ended
	go func() {
		_ = cmd.Wait() // its status is looked at where it matters
		close(ended)
	}()
	p.t.Cleanup(func() {
		_ = cmd.Process.Kill() // it has mostly ended
		<-ended
	})
	p.client = &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return unixsock.Dial(ctx, socket) },
	}}
	p.wait("the VMM serves its socket", func() bool {
		c, err := net.Dial("unix", socket)
		if err == nil {
			_ = c.Close() // nothing was sent
		}
		return err == nil
	})
}

// end makes sure that every event has been written, and ends the VMM.
func (p *player) end() {
	// A VM that comes and goes has an event to wait for.
	p.put("a VM, for its last event", "vm.create", `{"payload":{"kernel":"$KERNEL"},"serial":{"mode":"Null"},"console":{"mode":"Off"}}`)
	before := len(p.events())
	p.put("which is this", "vm.delete", "")
	var events []string
	p.wait("the last event", func() bool { events = p.events(); return len(events) > before })
	p.scene.Events = events
	p.put("the end", "vmm.shutdown", "")
	select {
	case <-p.ended:
	case <-time.After(patience):
		require.Fail(p.t, "the VMM does not end")
	}
	assert.True(p.t, p.cmd.ProcessState.Success(), "the VMM ended with %s: %s", p.cmd.ProcessState, p.output.String())
	p.client.CloseIdleConnections()
	if p.console != nil {
		p.console.close()
		p.console = nil
	}
	left, err := filepath.Glob(p.path("*.sock"))
	require.NoError(p.t, err)
	assert.Empty(p.t, left, "sockets after the VMM's end")
}

// events are those in the file so far.
func (p *player) events() (names []string) {
	b, err := os.ReadFile(p.path("events.json"))
	require.NoError(p.t, err)
	d := api.NewDecoder(bytes.NewReader(b))
	for {
		ev, err := d.Next()
		if errors.Is(err, io.EOF) {
			return names
		}
		require.NoError(p.t, err)
		if ev.Source != "virtio-device" {
			names = append(names, ev.Source+" "+ev.Name)
		}
	}
}

func (p *player) wait(what string, ok func() bool) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	err := wait.Until(ctx, 20*time.Millisecond, func() (bool, error) { return ok(), nil })
	require.NoError(p.t, err, "waiting until %s", what)
}

// put gives an order, and get asks; both are recorded.
func (p *player) put(step, call, body string) *exchange { return p.exchange(step, "PUT", call, body) }
func (p *player) get(step, call string) *exchange       { return p.exchange(step, "GET", call, "") }

func (p *player) exchange(step, method, call, body string) *exchange {
	p.scene.Exchanges = append(p.scene.Exchanges, p.ask(step, method, call, body))
	return &p.scene.Exchanges[len(p.scene.Exchanges)-1]
}

// ask makes one exchange.
func (p *player) ask(step, method, call, body string) exchange {
	e := exchange{Step: step, Method: method, Call: call}
	if body != "" {
		e.Body = json.RawMessage(body)
	}
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, "http://localhost/api/v1/"+call, strings.NewReader(p.paths.Replace(body)))
	require.NoError(p.t, err)
	resp, err := p.client.Do(r)
	require.NoError(p.t, err, "%s: %s %s", p.scene.Name, step, call)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(p.t, err)
	e.Status = resp.StatusCode
	if len(b) > 0 {
		e.Answer = p.normalize(call, b)
	}
	return e
}

// normalize takes out of an answer what differs from one run or host to another.
func (p *player) normalize(call string, b []byte) json.RawMessage {
	if !json.Valid(b) {
		quoted, err := json.Marshal(string(b))
		require.NoError(p.t, err)
		b = quoted
	}
	var v any
	require.NoError(p.t, json.Unmarshal([]byte(p.names.Replace(string(b))), &v))
	if m, ok := v.(map[string]any); ok {
		switch call {
		case "vmm.ping":
			m["pid"] = 0
			delete(m, "features")
			build, _ := m["build_version"].(string)
			m["build_version"], _, _ = strings.Cut(build, "-") // what follows is of who built it
			p.rec.Version, _ = m["version"].(string)
		case "vm.info":
			delete(m, "device_tree")
		}
	}
	out, err := json.Marshal(v)
	require.NoError(p.t, err)
	return out
}

// info asks for vm.info until it is as wanted, and records that.
func (p *player) info(step string, ok func(i api.Info) bool) {
	p.t.Helper()
	var e exchange
	p.wait(step, func() bool {
		e = p.ask(step, "GET", "vm.info", "")
		var i api.Info
		require.NoError(p.t, json.Unmarshal(e.Answer, &i))
		return ok(i)
	})
	p.scene.Exchanges = append(p.scene.Exchanges, e)
}

func is(s api.State) func(api.Info) bool { return func(i api.Info) bool { return i.State == s } }
func has(bytes int64) func(api.Info) bool {
	return func(i api.Info) bool { return i.MemoryActualSize == bytes }
}

// ready waits for a guest that has booted since the last one.
func (p *player) ready() {
	p.t.Helper()
	if p.console != nil {
		p.console.close()
	}
	c, err := net.Dial("unix", p.path("serial.sock"))
	require.NoError(p.t, err)
	p.console = read(c)
	p.wait("the guest is ready", func() bool { return strings.Contains(p.console.text(), "guest ready") })
}

// A consoleReader keeps what a serial port prints.
type consoleReader struct {
	c    net.Conn
	done chan struct{}
	mu   sync.Mutex // guards b
	b    []byte
}

func read(c net.Conn) *consoleReader {
	r := &consoleReader{c: c, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		br := bufio.NewReader(c)
		for {
			ch, err := br.ReadByte()
			if err != nil {
				return
			}
			r.mu.Lock()
			r.b = append(r.b, ch)
			r.mu.Unlock()
		}
	}()
	return r
}

func (r *consoleReader) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return string(r.b)
}

func (r *consoleReader) close() {
	_ = r.c.Close() // nothing was written
	<-r.done
}

// compare holds what was said to what was recorded. Of vm.info it looks at what api knows.
func compare(t *testing.T, want, got recording) {
	require.Len(t, got.Scenes, len(want.Scenes))
	for i, w := range want.Scenes {
		g := got.Scenes[i]
		t.Run(w.Name, func(t *testing.T) {
			require.Equal(t, w.Name, g.Name)
			assert.Equal(t, w.Events, g.Events, "events")
			require.Len(t, g.Exchanges, len(w.Exchanges))
			for j, we := range w.Exchanges {
				ge := g.Exchanges[j]
				assert.Equal(t, [3]string{we.Step, we.Method, we.Call}, [3]string{ge.Step, ge.Method, ge.Call})
				assert.Equal(t, we.Status, ge.Status, "%s: status of %s: %s", we.Step, we.Call, ge.Answer)
				assert.Equal(t, known(t, we), known(t, ge), "%s: answer to %s", we.Step, we.Call)
			}
		})
	}
}

// known is what is compared of an answer.
func known(t *testing.T, e exchange) any {
	if len(e.Answer) == 0 {
		return nil
	}
	if e.Call == "vm.info" && e.Status == http.StatusOK {
		var i api.Info
		require.NoError(t, json.Unmarshal(e.Answer, &i))
		return i
	}
	var v any
	require.NoError(t, json.Unmarshal(e.Answer, &v))
	return v
}
