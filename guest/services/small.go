package services

import (
	"io"
	"net"
	"time"
)

// Echo sends back what it gets (RFC 862).
func Echo(c net.Conn) { _, _ = io.Copy(c, c) }

// Discard takes what it gets (RFC 863).
func Discard(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

// Daytime sends the time (RFC 867).
func Daytime(c net.Conn) {
	_, _ = io.WriteString(c, time.Now().UTC().Format(time.RFC1123)+"\r\n")
}

// Lines of Chargen: 72 of the 95 printable characters, each line one further.
const (
	firstChar   = ' '
	chars       = 95
	lineChars   = 72
	chargenLine = lineChars + len("\r\n")
)

// Chargen sends lines of characters until the peer is gone (RFC 864).
func Chargen(c net.Conn) {
	go func() { _, _ = io.Copy(io.Discard, c) }() // ends when the stream is closed
	pattern := make([]byte, 0, chars*chargenLine)
	for line := range chars {
		for i := range lineChars {
			pattern = append(pattern, byte(firstChar+(line+i)%chars))
		}
		pattern = append(pattern, '\r', '\n')
	}
	for {
		if _, err := c.Write(pattern); err != nil {
			return
		}
	}
}
