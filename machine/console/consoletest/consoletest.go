// Package consoletest is what tests of consoles have in common: a VMM that prints, and
// somebody who reads. It imports the standard library.
package consoletest

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
)

// A Reader is a console.Reader.
type Reader interface {
	Read(ctx context.Context, p []byte) (int, error)
}

// ReadUntil reads until the text has come and returns all that has.
func ReadUntil(t testing.TB, ctx context.Context, r Reader, text string) string {
	t.Helper()
	var b strings.Builder
	p := make([]byte, 4096)
	for !strings.Contains(b.String(), text) {
		n, err := r.Read(ctx, p)
		if err != nil {
			t.Fatalf("waited for %q, got %q: %v", text, b.String(), err)
		}
		b.Write(p[:n])
	}
	return b.String()
}

// Bulk appends n lines of 64 bytes from number i on, as a VMM would.
func Bulk(t testing.TB, path string, i, n int) {
	t.Helper()
	var b strings.Builder
	for ; n > 0; n-- {
		fmt.Fprintf(&b, "%063d\n", i)
		i++
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(b.String()); err != nil {
		t.Fatal(err)
	}
}
