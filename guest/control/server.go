package control

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// A Guest is what the service asks and sets. Its functions may be called at the same
// time; one that is nil is a request that there is not.
type Guest struct {
	Memory func() (Memory, error)
	// Now is the guest's clock; nil is time.Now.
	Now func() time.Time
	// SetClock sets that clock.
	SetClock func(time.Time) error
}

// A request is one of the protocol's. Its function gets fields of its keys alone.
type request struct {
	name string
	keys []string
	has  func(*Guest) bool
	do   func(*Guest, fields) (answer string, err error)
}

var requests []request

func init() { // hello lists the table that it stands in
	requests = []request{
		{"hello", nil, func(*Guest) bool { return true }, hello},
		{"memory", nil, func(g *Guest) bool { return g.Memory != nil }, memory},
		{"clock", []string{"set"}, func(g *Guest) bool { return g.SetClock != nil }, clock},
	}
}

// Serve answers the requests of one stream until it ends. It does not close it.
func (g *Guest) Serve(conn net.Conn) {
	r := bufio.NewReaderSize(conn, MaxLine)
	for {
		line, err := readLine(r)
		if err == io.EOF {
			return
		}
		answer := ""
		if err == nil {
			answer = g.answer(line)
		} else {
			answer = refuse(CodeInvalid, err)
		}
		// After a line that is none it is not known where the next begins.
		if _, werr := io.WriteString(conn, answer+"\n"); werr != nil || err != nil {
			return
		}
	}
}

func (g *Guest) answer(line string) string {
	word, f, err := parseLine(line)
	if err != nil {
		return refuse(CodeInvalid, err)
	}
	for _, q := range requests {
		if q.name != word || !q.has(g) {
			continue
		}
		known := 0
		for _, k := range q.keys {
			if _, ok := f[k]; ok {
				known++
			}
		}
		if known < len(f) {
			return refuse(CodeInvalid, fmt.Errorf("%s has the keys %q and no others", word, q.keys))
		}
		answer, err := q.do(g, f)
		if err != nil {
			return refuse(CodeFailed, err)
		}
		return strings.TrimRight("ok "+answer, " ")
	}
	return refuse(CodeUnknown, fmt.Errorf("there is no request %q", word))
}

// refuse is the line of a refusal. An error that has a code keeps it.
func refuse(code Code, err error) string {
	if r, ok := err.(*Refusal); ok {
		code, err = r.Code, fmt.Errorf("%s", r.Text)
	}
	text := "error " + string(code) + " " + strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, err.Error())
	return text[:min(len(text), MaxLine-1)]
}

func hello(g *Guest, _ fields) (string, error) {
	var names []string
	for _, q := range requests {
		if q.has(g) {
			names = append(names, q.name)
		}
	}
	return "version=" + strconv.Itoa(Version) + " requests=" + strings.Join(names, ","), nil
}

func memory(g *Guest, _ fields) (string, error) {
	m, err := g.Memory()
	return fmt.Sprintf("actual=%d available=%d", m.Actual, m.Available), err
}

func clock(g *Guest, f fields) (string, error) {
	now := time.Now
	if g.Now != nil {
		now = g.Now
	}
	value, set := f["set"]
	if !set {
		return "unix=" + formatTime(now()), nil
	}
	t, err := parseTime(value)
	if err != nil {
		return "", &Refusal{CodeInvalid, err.Error()}
	}
	// Round takes the monotonic reading away, by which the step would be none.
	before := now().Round(0)
	if err := g.SetClock(t); err != nil {
		return "", err
	}
	return fmt.Sprintf("unix=%s step=%.9f", formatTime(now()), t.Sub(before).Seconds()), nil
}
