// Package qmptest plays the part of QEMU in a QMP dialogue that is written down
// beforehand, for tests of what talks to it.
//
// A script has one step a line:
//
//	S: TEXT       QEMU sends TEXT as a line; ${N} in it is the id of the Nth
//	              command, ${} that of the latest
//	C: NAME ARGS  QEMU receives the command NAME with the arguments ARGS, a JSON
//	              object that may be left out
//	C: NAME *     the same with any arguments
//	F: N          the command just received carried N files
//	# TEXT        a comment
//
// The package imports the standard library only.
package qmptest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"reflect"
	"strconv"
	"strings"
	"syscall"
)

// Greeting is how QEMU 7.2 opens a dialogue, with what follows it in a script.
const Greeting = `S: {"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"}, "capabilities": ["oob"]}}
C: qmp_capabilities
S: {"return": {}, "id": ${}}
`

// A Player plays scripts on one connection. Commands are numbered from 1 through
// all of them.
type Player struct {
	conn  *net.UnixConn
	buf   []byte
	files int
	ids   []string
}

// NewPlayer returns the player of QEMU's side of conn.
func NewPlayer(conn *net.UnixConn) *Player { return &Player{conn: conn} }

// Play goes through a script and returns what did not go as written. It then
// hangs up too, so that the other side does not wait for what never comes.
func (p *Player) Play(script string) error {
	for i, line := range strings.Split(script, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if err := p.step(line); err != nil {
			_ = p.conn.Close()
			return fmt.Errorf("line %d, %q: %w", i+1, line, err)
		}
	}
	return nil
}

func (p *Player) step(line string) error {
	kind, rest, _ := strings.Cut(line, ": ")
	switch kind {
	case "S":
		return p.send(rest)
	case "C":
		name, args, _ := strings.Cut(rest, " ")
		return p.expect(name, args)
	case "F":
		if want, err := strconv.Atoi(rest); err != nil || p.files != want {
			return fmt.Errorf("%d files came", p.files)
		}
		return nil
	}
	return fmt.Errorf("no such step")
}

func (p *Player) send(text string) error {
	for n := len(p.ids); n > 0; n-- {
		text = strings.ReplaceAll(text, "${"+strconv.Itoa(n)+"}", p.ids[n-1])
	}
	if len(p.ids) > 0 {
		text = strings.ReplaceAll(text, "${}", p.ids[len(p.ids)-1])
	}
	_, err := p.conn.Write([]byte(text + "\r\n"))
	return err
}

func (p *Player) expect(name, args string) error {
	line, err := p.readLine()
	if err != nil {
		return err
	}
	var cmd struct {
		Execute   string          `json:"execute"`
		Arguments any             `json:"arguments"`
		ID        json.RawMessage `json:"id"`
	}
	if err := json.Unmarshal(line, &cmd); err != nil {
		return fmt.Errorf("client sent %q: %w", line, err)
	}
	p.ids = append(p.ids, string(cmd.ID))
	if cmd.Execute != name {
		return fmt.Errorf("client sent %s", line)
	}
	if args == "*" {
		return nil
	}
	var want any
	if m, ok := cmd.Arguments.(map[string]any); ok && len(m) == 0 {
		cmd.Arguments = nil // {} says the same as no arguments
	}
	if args != "" {
		if err := json.Unmarshal([]byte(args), &want); err != nil {
			return err
		}
	}
	if !reflect.DeepEqual(want, cmd.Arguments) {
		return fmt.Errorf("client sent %s", line)
	}
	return nil
}

// readLine reads up to the next line end, and counts and closes the files that
// come with it.
func (p *Player) readLine() ([]byte, error) {
	p.files = 0
	for {
		if i := bytes.IndexByte(p.buf, '\n'); i >= 0 {
			line := p.buf[:i]
			p.buf = p.buf[i+1:]
			return line, nil
		}
		b, oob := make([]byte, 64<<10), make([]byte, 1024)
		n, oobn, _, _, err := p.conn.ReadMsgUnix(b, oob)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return nil, net.ErrClosed
		}
		p.buf = append(p.buf, b[:n]...)
		msgs, err := syscall.ParseSocketControlMessage(oob[:oobn])
		if err != nil {
			return nil, err
		}
		for _, m := range msgs {
			fds, err := syscall.ParseUnixRights(&m)
			if err != nil {
				return nil, err
			}
			for _, fd := range fds {
				p.files++
				_ = syscall.Close(fd)
			}
		}
	}
}
