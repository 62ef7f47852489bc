package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hugelgupf/p9/fsimpl/localfs"

	"vmfs/ninep"
	"vmfs/ninep/dial"
)

// server is one that is measured.
type server struct {
	name     string
	addr     string
	aname    string
	file     []string                                    // to read; "state" if none
	target   func(slot int) (file []string, text string) // to write, and what; w0 to w63 if nil
	echo     bool                                        // speaks no 9P
	peer     bool                                        // what the others are compared with
	external bool                                        // not ours to stop, or to write to

	cmd    *exec.Cmd
	stderr *bytes.Buffer
	exited chan error
}

// startServers starts what there is, on a directory of small files.
func startServers(ctx context.Context, dir, only, vmfs, profile string) (list []*server, err error) {
	files := filepath.Join(dir, "files")
	if err := os.Mkdir(files, 0o755); err != nil {
		return nil, err
	}
	names := []string{"state"}
	for i := range 64 {
		names = append(names, "w"+strconv.Itoa(i))
	}
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(files, name), []byte(state), 0o644); err != nil {
			return nil, err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	sock := func(name string) string { return filepath.Join(dir, name) }
	wanted := func(name string) bool {
		return only == "" || strings.Contains(","+only+",", ","+name+",")
	}
	start := func(s *server, name string, args ...string) error {
		s.addr = "unix!" + sock(s.name)
		if err := s.start(ctx, name, args...); err != nil {
			return fmt.Errorf("start %s: %w", s.name, err)
		}
		list = append(list, s)
		return nil
	}
	if wanted("echo") {
		if err := start(&server{name: "echo", echo: true}, self, "serve-echo", "unix!"+sock("echo")); err != nil {
			return list, err
		}
	}
	if wanted("ninep") {
		if err := start(&server{name: "ninep"}, self, "serve-ninep", "unix!"+sock("ninep"), files, profile); err != nil {
			return list, err
		}
	}
	if wanted("p9ufs") {
		bin := sock("p9ufs.bin")
		out, err := exec.CommandContext(ctx, "go", "build", "-o", bin, "github.com/hugelgupf/p9/cmd/p9ufs").CombinedOutput()
		if err != nil {
			return list, fmt.Errorf("build p9ufs: %w: %s", err, out)
		}
		if err := start(&server{name: "p9ufs", peer: true}, bin, "-unix", "-root", files, sock("p9ufs")); err != nil {
			return list, err
		}
	}
	if wanted("diod") {
		bin := "/usr/sbin/diod"
		if path, err := exec.LookPath("diod"); err == nil {
			bin = path
		}
		args := []string{"-f", "-n", "-c", "/dev/null", "-L", "stderr", "-e", files, "-l", sock("diod")}
		if _, err := os.Stat(bin); err != nil {
			fmt.Fprintln(os.Stderr, "bench: no diod here, so it is left out: apt-get install diod")
		} else if err := start(&server{name: "diod", peer: true, aname: files}, bin, args...); err != nil {
			return list, err
		}
	}
	if wanted("vmfs") && vmfs != "" {
		s := &server{name: "vmfs", file: []string{vmName(500), "state"}, target: func(slot int) ([]string, string) {
			return []string{vmName(slot), "ctl"}, comment
		}}
		if err := start(s, vmfs, "serve", "--log-level", "warn", "--state", sock("vmfs.state"), "--listen", "unix!"+sock("vmfs")); err != nil {
			return list, err
		}
		if err := makeVMs(ctx, s.addr); err != nil {
			return list, fmt.Errorf("make VMs: %w", err)
		}
	}
	return list, nil
}

// state is the content of the small files, and what is written to them.
const state = "sixteen bytes..\n"

// start starts a server and waits until it answers.
func (s *server) start(ctx context.Context, name string, args ...string) error {
	s.stderr = new(bytes.Buffer)
	s.cmd = exec.CommandContext(ctx, name, args...)
	s.cmd.Stderr = s.stderr
	if err := s.cmd.Start(); err != nil {
		return err
	}
	s.exited = make(chan error, 1)
	go func() { s.exited <- s.cmd.Wait() }()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		conn, err := dial.Dial(ctx, s.addr)
		if err == nil {
			return conn.Close()
		}
		select {
		case err := <-s.exited:
			s.exited <- err
			return fmt.Errorf("it exited: %v: %s", err, s.stderr)
		case <-ctx.Done():
			s.stop()
			return fmt.Errorf("it does not answer: %w: %s", err, s.stderr)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (s *server) stop() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.exited:
	case <-time.After(5 * time.Second):
		_ = s.cmd.Process.Kill()
		<-s.exited
	}
}

func stopServers(list []*server) {
	for _, s := range list {
		s.stop()
	}
}

// cpu is the processor time that a server has used.
func (s *server) cpu() (time.Duration, error) {
	if s.cmd == nil {
		return 0, nil
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, ok := bytes.Cut(b, []byte(") "))
	f := strings.Fields(string(rest))
	if !ok || len(f) < 13 {
		return 0, errors.New("cannot read /proc/PID/stat")
	}
	var ticks int64
	for _, v := range f[11:13] {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	const hz = 100 // of USER_HZ, on every Linux that Go runs on
	return time.Duration(ticks) * time.Second / hz, nil
}

// rss is the memory that a server has.
func (s *server) rss() (bytes int64, err error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if v, ok := strings.CutPrefix(sc.Text(), "VmRSS:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(v, "kB")), 10, 64)
			return kb << 10, err
		}
	}
	return 0, errors.New("no VmRSS in /proc/PID/status")
}

// serveNinep serves a directory, and writes what it spent its time on to the
// profile if that is not empty.
func serveNinep(ctx context.Context, addr, dir, profile string) error {
	if profile != "" {
		f, err := os.Create(profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	ln, err := dial.Listen(ctx, addr)
	if err != nil {
		return err
	}
	srv := &ninep.Server{Attacher: localfs.Attacher(dir)}
	return srv.Serve(ctx, ln)
}

// serveEcho sends back what it gets: the least that a server can do.
func serveEcho(ctx context.Context, addr string) error {
	ln, err := dial.Listen(ctx, addr)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	for {
		conn, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		go echo(conn)
	}
}

func echo(conn net.Conn) {
	defer conn.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return
		}
		if _, err := conn.Write(buf[:n]); err != nil && !errors.Is(err, io.ErrShortWrite) {
			return
		}
	}
}
