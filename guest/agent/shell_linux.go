package agent

import (
	"bytes"
	"io"
	"os"
	"syscall"
	"time"

	"vmfs/guest/internal/pty"
	"vmfs/guest/internal/reaper"
)

// scriptFile is guest.ScriptPath; see kmod.List.
const scriptFile = "/etc/vmfs/script"

// serveConsole runs the script if there is one, else a shell, for ever.
func (a *agent) serveConsole() {
	script, given := a.cmdline["vmfs.script"]
	if !given && fileExists(scriptFile) {
		script, given = scriptFile, true
	}
	path := consoleTTY()
	tty, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		a.con.printf("vmfs guest: console: %v", err)
		if given {
			a.end(powerOff)
		}
		return
	}
	defer tty.Close()
	if given {
		a.runScript(script, tty)
		a.end(powerOff)
		return
	}
	for !a.stopping.Load() {
		if fileExists("/bin/sh") {
			err = a.runShells(tty)
		} else {
			err = a.prompt(tty)
		}
		if err != nil {
			a.con.printf("vmfs guest: console: %v", err)
		}
		time.Sleep(time.Second) // one that fails at once must not spin
	}
}

// runScript runs a program on the console's terminal and reports its status.
func (a *agent) runScript(path string, tty *os.File) {
	// What was printed so far must not come after the script's output.
	a.con.flush(time.Second)
	argv := []string{path}
	if needsShell(path) {
		argv = []string{"/bin/sh", path}
	}
	c, err := a.kids.Start(argv[0], argv, environment(), "/root", []*os.File{tty, tty, tty}, newSession())
	if err != nil {
		a.con.printf("vmfs guest: script: %v", err)
		return
	}
	a.con.printf("vmfs guest: script exited %d", reaper.Wait(c))
}

// needsShell reports whether a file is a script that the kernel does not start by
// itself: one without #! or without permission. To try would be wrong: the failed
// child takes the terminal down with it.
func needsShell(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false // and starting it tells why
	}
	defer f.Close()
	head := make([]byte, 4)
	n, _ := io.ReadFull(f, head) // a shorter file is a script, if anything
	fi, err := f.Stat()
	return err == nil && fi.Mode().IsRegular() &&
		(fi.Mode()&0o111 == 0 || !bytes.HasPrefix(head[:n], []byte("#!")) && !bytes.Equal(head, []byte("\x7fELF")))
}

// runShells runs one shell after the other on the console.
//
// They get a pseudo-terminal and the agent copies, so that queryFilter is applied
// and the agent's own lines do not fall into the middle of a shell's.
func (a *agent) runShells(tty *os.File) error {
	master, slave, err := pty.Open(24, 80)
	if err != nil {
		return err
	}
	// Both stay open as long as the guest runs: the next shell uses them again.
	a.con.flush(time.Second)
	if err := pty.MakeRaw(tty); err != nil {
		master.Close()
		slave.Close()
		return err
	}
	a.con.queue <- output{raw: true}
	go a.guard("console input", func() { _, _ = io.Copy(master, tty) })
	go a.guard("console output", func() {
		var q queryFilter
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			if n > 0 {
				_, _ = a.con.Write(q.filter(buf[:n])) // never an error
			}
			if err != nil {
				a.con.printf("vmfs guest: console: %v", err)
				return
			}
		}
	})
	for !a.stopping.Load() {
		began := time.Now()
		c, err := a.kids.Start("/bin/sh", []string{"-sh"}, environment(), "/root", []*os.File{slave, slave, slave}, newSession())
		if err != nil {
			a.con.printf("vmfs guest: console: %v", err)
		} else {
			reaper.Wait(c)
		}
		if rest := time.Second - time.Since(began); rest > 0 {
			time.Sleep(rest) // one that fails at once must not spin
		}
	}
	return nil
}

// installBusybox has busybox make links to itself for the programs that it can
// be, where the image has none of that name.
func (a *agent) installBusybox() {
	if !fileExists("/bin/busybox") {
		return
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		a.con.printf("vmfs guest: busybox: %v", err)
		return
	}
	defer null.Close()
	c, err := a.kids.Start("/bin/busybox", []string{"busybox", "--install", "-s"}, environment(), "/", []*os.File{null, null, null}, nil)
	if err != nil {
		a.con.printf("vmfs guest: busybox: %v", err)
		return
	}
	reaper.Wait(c) // it complains of names that the image has already
}
