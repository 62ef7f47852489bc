package ctl

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
	"vmfs/machine"
)

// recorder is a server that keeps what it was asked to do.
type recorder struct {
	did  []string
	fail string // the name that cannot be made
}

func (r *recorder) Create(_ context.Context, name string) error {
	if name == r.fail {
		return fmt.Errorf("create %s: %w", name, machine.ErrExists)
	}
	r.did = append(r.did, "create "+name)
	return nil
}

func (r *recorder) Delete(_ context.Context, name string) error {
	r.did = append(r.did, "delete "+name)
	return nil
}

func TestRunServer(t *testing.T) {
	for _, c := range []struct {
		text string
		did  []string
		err  string
		is   error
	}{
		{"", nil, "", nil},
		{"\n# nothing\n", nil, "", nil},
		{"create web", []string{"create web"}, "", nil},
		{"  create 'it''s' # so\n\ndelete it\n", []string{"create it's", "delete it"}, "", nil},
		{"create a\ncreate taken\ncreate b", []string{"create a"}, "create taken: already exists", machine.ErrExists},
		{"create a\nfrob 12", nil, `unknown control message: "frob 12"`, hypervisor.ErrInvalid},
		{"create", nil, `wrong number of arguments, want "create NAME": "create"`, hypervisor.ErrInvalid},
		{"create a b", nil, `wrong number of arguments, want "create NAME": "create a b"`, hypervisor.ErrInvalid},
		{"create 'a", nil, "quote without an end", hypervisor.ErrInvalid},
	} {
		r := &recorder{fail: "taken"}
		err := RunServer(context.Background(), r, c.text)
		assert.Equal(t, c.did, r.did, "%q", c.text)
		if c.err == "" {
			assert.NoError(t, err, "%q", c.text)
			continue
		}
		require.ErrorIs(t, err, c.is, "%q", c.text)
		assert.ErrorContains(t, err, c.err)
		var e *Error
		assert.True(t, errors.As(err, &e))
	}
	assert.Equal(t, "create NAME\ndelete NAME\n", ServerUsage())
}

// TestRunIsCancelled holds that of a write of many lines nothing more is begun once who wrote
// it has left, and that it has a bound.
func TestRunIsCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	r := &leaver{leave: cancel}
	err := RunServer(ctx, r, strings.Repeat("create a\n", maxLines))
	require.ErrorIs(t, err, context.Canceled)
	assert.Equal(t, 3, r.made)
	err = RunServer(t.Context(), r, strings.Repeat("create a\n", maxLines+1))
	require.ErrorIs(t, err, hypervisor.ErrInvalid)
	assert.ErrorContains(t, err, "1025 lines: a write can have 1024")
	assert.Equal(t, 3, r.made)
}

// leaver is a server whose client leaves when three VMs are made.
type leaver struct {
	recorder
	made  int
	leave func()
}

func (l *leaver) Create(context.Context, string) error {
	if l.made++; l.made == 3 {
		l.leave()
	}
	return nil
}

// TestTables holds that every verb is whole, and that the capabilities they need
// are among those that there are.
func TestTables(t *testing.T) {
	all := hypervisor.Capabilities{
		SupportsSnapshot: true, SupportsHotplugMemory: true, SupportsPause: true,
		SupportsVsock: true, SupportsGPUPassthrough: true, SupportsDiskIOLimit: true,
	}
	for _, v := range machine.Verbs() {
		assert.NotEmpty(t, v.Help, v.Name)
		assert.NotEmpty(t, v.In, v.Name)
		assert.Equal(t, v.Args == "", v.Max == 0, v.Name)
		assert.True(t, v.Needs == "" || all.Has(v.Needs), v.Name)
	}
	assert.Len(t, VMVerbs(), len(machine.Verbs()))
}

func FuzzParse(f *testing.F) {
	f.Add("start\npause # x\n'a b' c")
	f.Fuzz(func(t *testing.T, text string) {
		msgs, err := parse(text)
		if err != nil {
			require.ErrorIs(t, err, hypervisor.ErrInvalid)
			return
		}
		for _, m := range msgs {
			assert.NotEmpty(t, m.Args)
			assert.NotContains(t, m.Text, "\n")
		}
	})
}
