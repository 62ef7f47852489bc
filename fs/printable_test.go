package fs

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/hugelgupf/p9/p9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/machine"
)

// rude is what no terminal should get of what clients and guests say.
const rude = "\x1b]0;x\x07\x00\x7f\u009b31m\x9b\xff\u202e"

// assertPrintable holds that a text is lines which a terminal shows as they are.
func assertPrintable(t *testing.T, text, what string) {
	t.Helper()
	assert.True(t, utf8.ValidString(text), "%s: %q", what, text)
	assert.False(t, strings.ContainsFunc(text, func(r rune) bool {
		return r != '\n' && r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r))
	}), "%s: %q", what, text)
}

// TestPrintable has clients send what terminals obey, wherever what they send is told to
// others.
func TestPrintable(t *testing.T) {
	host := newHost(t)
	tree := New(host, Options{})
	root := client(t, tree)
	require.NoError(t, mkdir(t, root, "web"))
	vm, _ := host.VM("web")
	for file, texts := range map[string][]string{
		"web/ctl":    {rude, "start " + rude, "set kernel=/" + rude, "set " + rude + "=1", "wait " + rude, "memory " + rude, "'" + rude},
		"web/config": {rude, "kernel=/" + rude, rude + "=1", "vcpus=" + rude, "sim." + rude + "=1", "disk=path:" + rude, "args=" + rude},
		"web/memory": {rude},
		"ctl":        {rude, "create " + rude, "delete " + rude},
	} {
		for _, text := range texts {
			f := mustOpen(t, root, file, p9.WriteOnly)
			_, err := f.WriteAt([]byte(text), 0)
			if err == nil {
				err = f.Close()
			}
			assert.Error(t, err, "%s: %q", file, text)
			assertPrintable(t, cat(t, root, "web/error"), file)
			if strings.HasPrefix(file, "web") {
				assert.Contains(t, cat(t, root, "web/error"), `]0;x`, "%s: %q: it is told, made printable", file, text)
			}
			if strings.HasSuffix(file, "ctl") {
				own := attach(t, tree, peer(ownUID()), "", noUser)
				answer := mustWalk(t, own, strings.Split(file, "/")...).(*textFile)
				_, _, err := answer.Open(p9.ReadWrite)
				require.NoError(t, err)
				_, err = answer.WriteContext(context.Background(), []byte(text), 0)
				require.Error(t, err)
				got, err := readAll(answer)
				require.NoError(t, err)
				assert.Contains(t, got, `]0;x`)
				assertPrintable(t, got, file)
			}
		}
	}
	assertPrintable(t, cat(t, root, "web/config"), "config")
	told, err := vm.History()
	require.NoError(t, err)
	assert.Contains(t, strings.Join(told, "\n"), `]0;x`)
	assertPrintable(t, strings.Join(told, "\n"), "events")
}

// TestLogIsPrintable reads what a hypervisor printed, in pieces of every size: characters are
// whole however they fall.
func TestLogIsPrintable(t *testing.T) {
	host := newHost(t)
	root := attach(t, New(host, Options{}), peer(ownUID()), "", noUser)
	vm, err := host.Create("web", machine.Owner{Mode: 0o700})
	require.NoError(t, err)
	f := mustWalk(t, root, "web", "log")
	_, _, err = f.Open(p9.ReadOnly)
	require.NoError(t, err)
	n, err := f.ReadAt(make([]byte, 10), 0)
	assert.Zero(t, n, "of a VM that never ran: %v", err)
	line := "ä日本🎻 plain\n"
	raw := strings.Repeat(line, 3) + rude + "\n" + line + "\xe6\x97" // cut off
	want := strings.Repeat(line, 3) + "?]0;x?????31m?????\n" + line + "??"
	require.NoError(t, os.WriteFile(vm.LogPath(), []byte(raw), 0o600))
	for size := 1; size < len(raw)+2; size++ {
		var got []byte
		for buf := make([]byte, size); ; {
			n, err := f.ReadAt(buf, int64(len(got)))
			got = append(got, buf[:n]...)
			if err != nil || n == 0 {
				break
			}
		}
		require.Equal(t, want, string(got), fmt.Sprint(size))
	}
}
