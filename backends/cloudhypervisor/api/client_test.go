package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/cloudhypervisor/api"
	"vmfs/backends/hypervisor"
	"vmfs/internal/unixsock"
)

const patience = 20 * time.Second

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// socketPath is short enough for a socket wherever tests run.
func socketPath(t *testing.T) string {
	dir, err := os.MkdirTemp("/tmp", "vmfs")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "ch.sock")
}

// serve answers every connection to a new socket with handle, which is given them one by one.
func serve(t *testing.T, handle func(c *net.UnixConn)) (client *api.Client, socket string) {
	socket = socketPath(t)
	l, err := unixsock.Listen(t.Context(), socket)
	require.NoError(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				assert.NoError(t, c.SetDeadline(time.Now().Add(patience)))
				handle(c)
			})
		}
	})
	client = api.New(socket)
	t.Cleanup(func() {
		assert.NoError(t, client.Close())
		_ = l.Close() // it may be closed already
		wg.Wait()
	})
	return client, socket
}

// talk answers every request on a connection with what answer makes of it, until "".
func talk(c *net.UnixConn, answer func(r *http.Request, body string) string) {
	br := bufio.NewReader(c)
	for {
		r, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		a := answer(r, string(b))
		if a == "" {
			return
		}
		if _, err := io.WriteString(c, a); err != nil {
			return
		}
	}
}

// noContent and withBody are answers as micro-http writes them: no reason behind the status.
const noContent = "HTTP/1.1 204 \r\nServer: Cloud Hypervisor API\r\nConnection: keep-alive\r\n\r\n"

func withBody(status int, body string) string {
	return fmt.Sprintf("HTTP/1.1 %d \r\nServer: Cloud Hypervisor API\r\nConnection: keep-alive\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", status, len(body), body)
}

func TestRequests(t *testing.T) {
	var mu sync.Mutex
	var got []string
	conns := 0
	c, _ := serve(t, func(nc *net.UnixConn) {
		mu.Lock()
		conns++
		mu.Unlock()
		talk(nc, func(r *http.Request, body string) string {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, strings.TrimSpace(r.Method+" "+r.URL.Path+" "+body))
			switch r.URL.Path {
			case "/api/v1/vm.info":
				return withBody(200, `{"config":{"cpus":{"boot_vcpus":2,"max_vcpus":4},"memory":{"size":1024,"hotplug_method":"VirtioMem"},"platform":{"system_uuid":"u"},"rng":{"src":"/dev/urandom"}},"state":"Paused","memory_actual_size":768,"device_tree":{}}`)
			case "/api/v1/vmm.ping":
				return withBody(200, `{"build_version":"v53.0","version":"53.0.0","pid":7,"features":["kvm"]}`)
			case "/api/v1/vmm.shutdown":
				return withBody(200, "")
			}
			return noContent
		})
	})
	ctx := testContext(t)

	pong, err := c.Ping(ctx)
	require.NoError(t, err)
	assert.Equal(t, &api.Pong{BuildVersion: "v53.0", Version: "53.0.0", PID: 7, Features: []string{"kvm"}}, pong)
	info, err := c.Info(ctx)
	require.NoError(t, err)
	assert.Equal(t, &api.Info{
		Config: api.VMConfig{
			CPUs: api.CPUs{Boot: 2, Max: 4}, Memory: api.Memory{Size: 1024, HotplugMethod: api.HotplugVirtioMem},
			Platform: &api.Platform{UUID: "u"},
		},
		State: api.StatePaused, MemoryActualSize: 768,
	}, info)

	require.NoError(t, c.Create(ctx, &api.VMConfig{
		CPUs:    api.CPUs{Boot: 1, Max: 1},
		Memory:  api.Memory{Size: 1 << 20},
		Payload: api.Payload{Kernel: "/k"},
		Disks:   []api.Disk{{Path: "/d", ImageType: api.ImageRaw}},
		Serial:  api.Console{Mode: api.ConsoleNull}, Console: api.Console{Mode: api.ConsoleOff},
	}))
	for _, call := range []func(context.Context) error{
		c.Boot, c.Pause, c.Resume, c.Reboot, c.NMI, c.PowerButton, c.ShutdownVM, c.Delete, c.ShutdownVMM,
	} {
		require.NoError(t, call(ctx))
	}
	require.NoError(t, c.Resize(ctx, api.Resize{Balloon: new(int64(0))}))
	require.NoError(t, c.ResizeDisk(ctx, "disk0", 5))
	require.NoError(t, c.Snapshot(ctx, "/a b%20"))
	require.NoError(t, c.Restore(ctx, "/s", api.Restore{Memory: api.RestoreOnDemand}))

	mu.Lock()
	defer mu.Unlock()
	assert.Equal(t, []string{
		"GET /api/v1/vmm.ping",
		"GET /api/v1/vm.info",
		`PUT /api/v1/vm.create {"cpus":{"boot_vcpus":1,"max_vcpus":1},"memory":{"size":1048576},"payload":{"kernel":"/k"},"disks":[{"path":"/d","image_type":"Raw","backing_files":false}],"serial":{"mode":"Null"},"console":{"mode":"Off"}}`,
		"PUT /api/v1/vm.boot",
		"PUT /api/v1/vm.pause",
		"PUT /api/v1/vm.resume",
		"PUT /api/v1/vm.reboot",
		"PUT /api/v1/vm.nmi",
		"PUT /api/v1/vm.power-button",
		"PUT /api/v1/vm.shutdown",
		"PUT /api/v1/vm.delete",
		"PUT /api/v1/vmm.shutdown",
		`PUT /api/v1/vm.resize {"desired_balloon":0}`,
		`PUT /api/v1/vm.resize-disk {"id":"disk0","desired_size":5}`,
		`PUT /api/v1/vm.snapshot {"destination_url":"file:///a b%20"}`,
		`PUT /api/v1/vm.restore {"source_url":"file:///s","memory_restore_mode":"OnDemand"}`,
	}, got)
	assert.Equal(t, 1, conns, "connections for calls one after the other")
}

// The files come with the first byte of their request, and are the caller's still.
func TestFiles(t *testing.T) {
	type seen struct {
		line string
		body string
		text []string
	}
	got := make(chan seen, 2)
	c, _ := serve(t, func(nc *net.UnixConn) {
		b, oob := make([]byte, 1024), make([]byte, 1024)
		n, oobn, _, _, err := nc.ReadMsgUnix(b, oob)
		if !assert.NoError(t, err) {
			return
		}
		var s seen
		msgs, err := syscall.ParseSocketControlMessage(oob[:oobn])
		assert.NoError(t, err)
		for _, m := range msgs {
			fds, err := syscall.ParseUnixRights(&m)
			assert.NoError(t, err)
			for _, fd := range fds {
				f := os.NewFile(uintptr(fd), "received")
				text := make([]byte, 16)
				n, err := f.ReadAt(text, 0)
				assert.ErrorIs(t, err, io.EOF)
				s.text = append(s.text, string(text[:n]))
				assert.NoError(t, f.Close())
			}
		}
		r, err := http.ReadRequest(bufio.NewReader(io.MultiReader(strings.NewReader(string(b[:n])), nc)))
		if !assert.NoError(t, err) {
			return
		}
		body, err := io.ReadAll(r.Body)
		assert.NoError(t, err)
		s.line, s.body = r.Method+" "+r.URL.Path, string(body)
		_, err = io.WriteString(nc, noContent)
		assert.NoError(t, err)
		got <- s
	})
	var files []*os.File
	for _, text := range []string{"one", "two"} {
		f, err := os.Create(filepath.Join(t.TempDir(), text))
		require.NoError(t, err)
		defer f.Close()
		_, err = f.WriteString(text)
		require.NoError(t, err)
		files = append(files, f)
	}
	ctx := testContext(t)
	require.NoError(t, c.AddNet(ctx, api.Net{ID: "net0", MAC: "02:00:00:00:00:01", NumQueues: 4}, files...))
	assert.Equal(t, seen{"PUT /api/v1/vm.add-net", `{"id":"net0","mac":"02:00:00:00:00:01","num_queues":4}`, []string{"one", "two"}}, <-got)

	require.Error(t, c.Restore(ctx, "/s", api.Restore{Nets: []api.RestoredNet{{ID: "net0", Files: 1}}}), "a device without its file")
	require.NoError(t, c.Restore(ctx, "/s", api.Restore{Nets: []api.RestoredNet{{ID: "net0", Files: 2}}}, files...))
	assert.Equal(t, seen{"PUT /api/v1/vm.restore", `{"source_url":"file:///s","net_fds":[{"id":"net0","num_fds":2}]}`, []string{"one", "two"}}, <-got)

	require.NoError(t, files[0].Close())
	require.ErrorContains(t, c.AddNet(ctx, api.Net{}, files...), "closed file")
}

func TestRefusals(t *testing.T) {
	for _, test := range []struct {
		name, answer string
		status       int
		words        []string
		says         string
	}{
		{
			"a chain of words", withBody(500, `["Error from API","The VM could not be paused","Cannot pause VM","Failed to pause migratable component","Invalid transition: InvalidStateTransition(Paused, Paused)"]`), 500,
			[]string{"Error from API", "The VM could not be paused", "Cannot pause VM", "Failed to pause migratable component", "Invalid transition: InvalidStateTransition(Paused, Paused)"},
			"Cloud Hypervisor refuses vm.pause: failed to pause migratable component: invalid transition",
		},
		{
			"a sentence within a value", withBody(500, `["Error from API","The VM could not be resized","Memory manager error","Failed to virtio-mem resize","Resize invalid argument","Failed to update virtio configuration: ResizeError(new size 0x0 and requested_size are identical)"]`), 500,
			[]string{"Error from API", "The VM could not be resized", "Memory manager error", "Failed to virtio-mem resize", "Resize invalid argument", "Failed to update virtio configuration: ResizeError(new size 0x0 and requested_size are identical)"},
			"Cloud Hypervisor refuses vm.pause: resize invalid argument: failed to update virtio configuration: new size 0x0 and requested_size are identical",
		},
		{
			"a trace of the stack", withBody(500, `["Error from API","Resize invalid argument","Failed to update virtio configuration: ResizeError(new size 0x0 and requested_size are identical\n\nStack backtrace:\n   0: <unknown>\n  10: start_thread)"]`), 500,
			[]string{"Error from API", "Resize invalid argument", "Failed to update virtio configuration: ResizeError(new size 0x0 and requested_size are identical\n\nStack backtrace:\n   0: <unknown>\n  10: start_thread)"},
			"Cloud Hypervisor refuses vm.pause: resize invalid argument: failed to update virtio configuration: new size 0x0 and requested_size are identical",
		},
		{
			"the same word twice", withBody(500, `["Error from API","Disk is locked.","Disk is locked","Disk is locked by\n process 7"]`), 500,
			[]string{"Error from API", "Disk is locked.", "Disk is locked", "Disk is locked by\n process 7"},
			"Cloud Hypervisor refuses vm.pause: disk is locked by process 7",
		},
		{
			"an error of the system", withBody(500, `["Error from API","The VM could not boot","Cannot open kernel file","No such file or directory (os error 2)"]`), 500,
			[]string{"Error from API", "The VM could not boot", "Cannot open kernel file", "No such file or directory (os error 2)"},
			"Cloud Hypervisor refuses vm.pause: cannot open kernel file: no such file or directory",
		},
		{"two words", withBody(500, `["Error from API","The VM is not booted"]`), 500, []string{"Error from API", "The VM is not booted"}, "Cloud Hypervisor refuses vm.pause: the VM is not booted"},
		{"one word", withBody(404, `["Not Found"]`), 404, []string{"Not Found"}, "Cloud Hypervisor refuses vm.pause: not Found"},
		{"text", withBody(500, "VM is not running\n"), 500, []string{"VM is not running"}, "Cloud Hypervisor refuses vm.pause: VM is not running"},
		{"the server's own", withBody(400, `{ "error": "Invalid header." }`), 400, []string{"Invalid header."}, "Cloud Hypervisor refuses vm.pause: invalid header"},
		{"no room", "HTTP/1.1 503\r\nServer: Firecracker API\r\nConnection: close\r\nContent-Length: 40\r\n\r\n" + `{ "error": "Too many open connections" }`, 503, []string{"Too many open connections"}, "Cloud Hypervisor refuses vm.pause: too many open connections"},
		{"other JSON", withBody(500, `[{"code":7}]`), 500, []string{`[{"code":7}]`}, `Cloud Hypervisor refuses vm.pause: [{"code":7}]`},
		{"nothing", withBody(500, ""), 500, nil, "Cloud Hypervisor refuses vm.pause (status 500)"},
		{"an empty list", withBody(500, "[]"), 500, []string{}, "Cloud Hypervisor refuses vm.pause (status 500)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, _ := serve(t, func(nc *net.UnixConn) {
				talk(nc, func(*http.Request, string) string { return test.answer })
			})
			err := c.Pause(testContext(t))
			var refused *api.Error
			require.ErrorAs(t, err, &refused)
			assert.Equal(t, &api.Error{Call: "vm.pause", Status: test.status, Words: test.words}, refused)
			assert.EqualError(t, err, test.says)
			assert.NotErrorIs(t, err, hypervisor.ErrHypervisorNotRunning)
		})
	}
}

func TestNoVM(t *testing.T) {
	answer := withBody(404, `["Error from API","The VM info is not available","VM is not created"]`)
	c, _ := serve(t, func(nc *net.UnixConn) { talk(nc, func(*http.Request, string) string { return answer }) })
	_, err := c.Info(testContext(t))
	require.ErrorIs(t, err, api.ErrNoVM)
	assert.ErrorContains(t, err, "VM is not created")
	assert.NotErrorIs(t, c.Pause(testContext(t)), api.ErrNoVM)
}

// What is no answer of the API is said to be none, and memory is bounded.
func TestProtocol(t *testing.T) {
	for name, answer := range map[string]string{
		"another protocol":    "SSH-2.0-OpenSSH\r\n",
		"a long line":         "HTTP/1.1 204 " + strings.Repeat("x", 5<<20),
		"a long header":       "HTTP/1.1 204 \r\n" + strings.Repeat("A: b\r\n", 1<<20),
		"a long body":         "HTTP/1.1 200 \r\nContent-Length: 99999999999\r\n\r\n",
		"a body without end":  "HTTP/1.1 200 \r\n\r\n" + strings.Repeat("x", 5<<20),
		"a negative length":   "HTTP/1.1 200 \r\nContent-Length: -1\r\n\r\n",
		"a header of no name": "HTTP/1.1 200 \r\nwhat\r\n\r\n",
		"chunks":              "HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"no JSON":             withBody(200, "pong"),
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := serve(t, func(nc *net.UnixConn) {
				talk(nc, func(*http.Request, string) string { return answer })
			})
			_, err := c.Ping(testContext(t))
			require.ErrorIs(t, err, api.ErrProtocol)
		})
	}
}

func TestNotRunning(t *testing.T) {
	c := api.New(socketPath(t))
	err := c.Boot(testContext(t))
	require.ErrorIs(t, err, hypervisor.ErrHypervisorNotRunning)
	assert.NotErrorIs(t, err, os.ErrNotExist)

	for name, answer := range map[string]string{"before": "", "within the header": "HTTP/1.1 204", "within the body": "HTTP/1.1 200 \r\nContent-Length: 9\r\n\r\n{"} {
		t.Run("it hangs up "+name+" its answer", func(t *testing.T) {
			c, _ := serve(t, func(nc *net.UnixConn) {
				talk(nc, func(*http.Request, string) string {
					_, err := io.WriteString(nc, answer)
					assert.NoError(t, err)
					return ""
				})
			})
			_, err := c.Info(testContext(t))
			require.ErrorIs(t, err, hypervisor.ErrHypervisorNotRunning)
		})
	}
}

// A connection that was kept and is closed by the other end is no reason for an error, and no
// call is made twice.
func TestKeptConnectionIsGone(t *testing.T) {
	var mu sync.Mutex
	calls := 0
	closed := make(chan struct{}, 10)
	c, _ := serve(t, func(nc *net.UnixConn) {
		r, err := http.ReadRequest(bufio.NewReader(nc))
		if err != nil {
			return
		}
		mu.Lock()
		calls++
		mu.Unlock()
		assert.Equal(t, "/api/v1/vm.pause", r.URL.Path)
		_, err = io.WriteString(nc, noContent)
		assert.NoError(t, err)
		_ = nc.Close()
		closed <- struct{}{}
	})
	for range 3 {
		require.NoError(t, c.Pause(testContext(t)))
		<-closed
	}
	mu.Lock()
	defer mu.Unlock()
	assert.Equal(t, 3, calls)
}

// A VMM that does not answer holds nobody longer than his context, however many wait, and
// answers again when it goes on.
func TestHanging(t *testing.T) {
	goOn := make(chan struct{})
	c, _ := serve(t, func(nc *net.UnixConn) {
		talk(nc, func(*http.Request, string) string { <-goOn; return noContent })
	})
	ctx, cancel := context.WithCancel(testContext(t))
	errs := make(chan error)
	const callers = 9
	for range callers {
		go func() { errs <- c.Pause(ctx) }()
	}
	time.AfterFunc(20*time.Millisecond, cancel)
	for range callers {
		require.ErrorIs(t, <-errs, context.Canceled)
	}
	close(goOn)
	require.NoError(t, c.Pause(testContext(t)))
}

func TestClose(t *testing.T) {
	asked := make(chan struct{})
	c, _ := serve(t, func(nc *net.UnixConn) {
		talk(nc, func(*http.Request, string) string { close(asked); _, _ = nc.Read(make([]byte, 1)); return "" })
	})
	errc := make(chan error)
	go func() { errc <- c.Pause(testContext(t)) }()
	<-asked
	require.NoError(t, c.Close())
	require.ErrorIs(t, <-errc, api.ErrClosed)
	require.ErrorIs(t, c.Pause(testContext(t)), api.ErrClosed)
	require.NoError(t, c.Close())
}

// A configuration that Cloud Hypervisor would not read to its end is not sent.
func TestLongRequest(t *testing.T) {
	c, _ := serve(t, func(nc *net.UnixConn) { t.Error("it was sent") })
	err := c.Create(testContext(t), &api.VMConfig{Payload: api.Payload{Cmdline: strings.Repeat("x", 60000)}})
	require.ErrorIs(t, err, hypervisor.ErrInvalid)
}

func TestConcurrentCalls(t *testing.T) {
	c, _ := serve(t, func(nc *net.UnixConn) {
		talk(nc, func(r *http.Request, body string) string {
			var v struct{ ID string }
			assert.NoError(t, json.Unmarshal([]byte(body), &v))
			return withBody(500, fmt.Sprintf("[%q]", v.ID))
		})
	})
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			err := c.ResizeDisk(testContext(t), fmt.Sprint("disk", i), 1)
			var refused *api.Error
			if assert.ErrorAs(t, err, &refused) {
				assert.Equal(t, []string{fmt.Sprint("disk", i)}, refused.Words)
			}
		})
	}
	wg.Wait()
}
