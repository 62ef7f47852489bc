package ninep

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"vmfs/ninep/wire/wiretest"
)

// TestTraces plays the conversations in testdata/*.trace.
//
// A line is one of
//
//	# comment
//	version DIALECT      the dialect that T and R lines are written in
//	dial                 a new connection in place of the last
//	T TAG NAME K=V…      send a message; the fields left out are 0 or empty
//	R TAG NAME K=V…      take a reply, which must have these fields; * is any
//	raw HEX…             send bytes
//	hangup               close the connection
//	eof                  the server closes the connection
//	waits FILE           a request has come to block on a stream
//	feed FILE "TEXT"     a record for a blocked read of a stream
//	takes FILE "TEXT"    what a blocked write of a stream writes
//	closed FILE          a stream's file is closed
//	log TEXT             the server's log says so
//
// on the tree of basicTree with two streams, s and t, and one, o, whose open
// blocks.
func TestTraces(t *testing.T) {
	files, err := filepath.Glob("testdata/*.trace")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".trace"), func(t *testing.T) { playTrace(t, file) })
	}
}

func playTrace(t *testing.T, file string) {
	fs := basicTree()
	streams := map[string]*stream{"s": fs.streamFile("s"), "t": fs.streamFile("t"), "o": fs.streamFile("o")}
	streams["o"].openErr = make(chan error)
	fs.file("fixed/file", "stays\n")
	fs.root.children["fixed"].fixed = true
	fs.file("lock", "").lock = new(memLock)
	ts := serve(t, fs, func(s *Server) { s.Limits.Fids = 64; s.Limits.Requests = 16 })
	f, err := os.Open(file)
	require.NoError(t, err)
	defer f.Close()
	c := &rawClient{t: t, dialect: "9P2000.L", Conn: ts.dial()}
	sc := bufio.NewScanner(f)
	for n := 1; sc.Scan(); n++ {
		words, err := splitTrace(sc.Text())
		require.NoError(t, err, "%s:%d", file, n)
		if len(words) == 0 {
			continue
		}
		if err := playLine(ts, c, streams, words); err != nil {
			t.Fatalf("%s:%d: %s\n%v\n%s", file, n, sc.Text(), err, ts.log)
		}
	}
	require.NoError(t, sc.Err())
}

func playLine(ts *testServer, c *rawClient, streams map[string]*stream, words []string) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("%v", v)
		}
	}()
	arg := func() *stream { return streams[words[1]] }
	switch words[0] {
	case "version":
		c.dialect = words[1]
	case "dial":
		c.Close()
		c.Conn = ts.dial()
	case "hangup":
		return c.Close()
	case "T":
		args, err := traceArgs(words[3:])
		if err != nil {
			return err
		}
		_, err = c.Write(wiretest.Encode(c.dialect, words[2], uint16(wiretest.Number(words[1])), args))
		return err
	case "raw":
		b, err := hex.DecodeString(strings.Join(words[1:], ""))
		if err != nil {
			return err
		}
		_, err = c.Write(b)
		return err
	case "R":
		return traceReply(c, words)
	case "eof":
		_, err := c.recvFrame()
		if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, net.ErrClosed) {
			return nil
		}
		return fmt.Errorf("the connection is still there: %v", err)
	case "waits":
		take(ts.t, "request on "+words[1], arg().waiting)
	case "feed":
		give(ts.t, "record for "+words[1], arg().in, wiretest.String(words[2]))
	case "takes":
		if got := take(ts.t, "write to "+words[1], arg().out); got != wiretest.String(words[2]) {
			return fmt.Errorf("written was %q", got)
		}
	case "closed":
		take(ts.t, "close of "+words[1], arg().closed)
	case "opens":
		give(ts.t, "open of "+words[1], arg().openErr, error(nil))
	case "log":
		eventually(ts.t, "log line", func() bool { return strings.Contains(ts.log.String(), strings.Join(words[1:], " ")) })
	default:
		return fmt.Errorf("unknown line %q", words[0])
	}
	return nil
}

func traceReply(c *rawClient, words []string) error {
	want, err := traceArgs(words[3:])
	if err != nil {
		return err
	}
	frame, err := c.recvFrame()
	if err != nil {
		return err
	}
	name, tag, vals, err := wiretest.Decode(c.dialect, frame)
	if err != nil {
		return err
	}
	got := fmt.Sprintf("R %d %s %v", tag, name, vals)
	if name != words[2] || uint64(tag) != wiretest.Number(words[1]) {
		return fmt.Errorf("got %s", got)
	}
	for k, v := range want {
		have, ok := vals[k]
		if !ok || !wiretest.Equal(have, v) {
			return fmt.Errorf("%s is %s, want %s, in %s", k, have, v, got)
		}
	}
	return nil
}

func traceArgs(words []string) (map[string]string, error) {
	m := make(map[string]string)
	for _, w := range words {
		k, v, ok := strings.Cut(w, "=")
		if !ok {
			return nil, fmt.Errorf("%q is not K=V", w)
		}
		if strings.HasPrefix(v, "rep(") { // rep("text",3)
			s, n, _ := strings.Cut(strings.TrimSuffix(v[4:], ")"), ",")
			count, err := strconv.Atoi(n)
			if err != nil {
				return nil, err
			}
			v = strconv.Quote(strings.Repeat(wiretest.String(s), count))
		}
		m[k] = v
	}
	return m, nil
}

// splitTrace splits at blanks outside quotes; a comment has no words.
func splitTrace(line string) (words []string, err error) {
	if strings.HasPrefix(line, "#") {
		return nil, nil
	}
	var w strings.Builder
	in := false
	for i := 0; i < len(line); i++ {
		ch := line[i]
		switch {
		case ch == '\\' && in && i+1 < len(line):
			w.WriteByte(ch)
			i++
			w.WriteByte(line[i])
			continue
		case ch == '"':
			in = !in
		case (ch == ' ' || ch == '\t') && !in:
			if w.Len() > 0 {
				words = append(words, w.String())
				w.Reset()
			}
			continue
		}
		w.WriteByte(ch)
	}
	if in {
		return nil, errors.New("quote without end")
	}
	if w.Len() > 0 {
		words = append(words, w.String())
	}
	return words, nil
}
