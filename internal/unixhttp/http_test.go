package unixhttp

import (
	"bufio"
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestReadAnswer(t *testing.T) {
	for _, test := range []struct {
		in   string
		want Answer
	}{
		{"HTTP/1.1 204 \r\n\r\n", Answer{Status: 204, keep: true}},
		{"HTTP/1.1 204 No Content\r\nContent-Length: 7\r\n\r\n", Answer{Status: 204, keep: true}},
		{"HTTP/1.1 100 \r\n\r\nHTTP/1.1 200 \r\ncontent-length: 2\r\n\r\nhi", Answer{200, []byte("hi"), true}},
		{"HTTP/1.1 200 \r\nConnection: close\r\nContent-Length: 0\r\n\r\n", Answer{200, []byte{}, false}},
		{"HTTP/1.1 200 OK\r\n\r\nto the end", Answer{200, []byte("to the end"), false}},
		{"HTTP/1.1 500 \r\nContent-Length: 2\r\n\r\n[]", Answer{500, []byte("[]"), false}},
		{"HTTP/1.1 204 \r\n\r\nmore", Answer{Status: 204}},
	} {
		got, err := readAnswer(bufio.NewReader(strings.NewReader(test.in)))
		require.NoError(t, err, test.in)
		assert.Equal(t, test.want, got, test.in)
	}
}

// FuzzAnswer reads what it likes as an answer: it ends, and has no more than that.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte("HTTP/1.1 500 \r\nContent-Length: 26\r\n\r\n[\"Error\",\"Disk(Io(Bad))\"]"))
	f.Add([]byte("HTTP/1.1 100 \r\n\r\nHTTP/1.1 503\r\n\r\n{\"error\":\"full\"}"))
	f.Fuzz(func(t *testing.T, in []byte) {
		a, err := readAnswer(bufio.NewReader(bytes.NewReader(in)))
		if err == nil {
			require.LessOrEqual(t, len(a.Body), len(in))
		}
	})
}
