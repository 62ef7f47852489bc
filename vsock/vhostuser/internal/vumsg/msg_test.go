package vumsg

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func le32(vs ...uint32) (b []byte) {
	for _, v := range vs {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	return b
}

func le64(vs ...uint64) (b []byte) {
	for _, v := range vs {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

func TestHeader(t *testing.T) {
	m, n, err := parseHeader(le32(uint32(SetFeatures), flagVersion|flagNeedReply, 8))
	require.NoError(t, err)
	assert.Equal(t, Msg{Type: SetFeatures, NeedReply: true}, m)
	assert.Equal(t, 8, n)
	for name, h := range map[string][]byte{
		"version 0":  le32(1, 0, 0),
		"version 2":  le32(1, 2, 0),
		"version 3":  le32(1, 3, 0),
		"a reply":    le32(1, flagVersion|flagReply, 0),
		"too long":   le32(1, flagVersion, MaxPayload+1),
		"4 GiB long": le32(1, flagVersion, 0xffffffff),
	} {
		_, _, err := parseHeader(h)
		assert.ErrorIs(t, err, ErrForm, name)
	}
	assert.Equal(t, append(le32(11, 5, 8), le64(7)...), AppendReply(nil, GetVringBase, le64(7)))
}

func TestPayloads(t *testing.T) {
	msg := func(fds int, parts ...[]byte) *Msg {
		m := &Msg{Type: SetFeatures, FDs: make([]int, fds)}
		for i := range m.FDs {
			m.FDs[i] = 100 + i
		}
		for _, p := range parts {
			m.Payload = append(m.Payload, p...)
		}
		return m
	}
	v, err := msg(0, le64(1<<40)).U64()
	require.NoError(t, err)
	assert.EqualValues(t, 1<<40, v)
	i, n, err := msg(0, le32(1, 128)).State()
	require.NoError(t, err)
	assert.Equal(t, []uint32{1, 128}, []uint32{i, n})
	a, err := msg(0, le32(1, 2), le64(3, 4, 5, 6)).VringAddr()
	require.NoError(t, err)
	assert.Equal(t, VringAddr{Ring: 1, Flags: 2, Desc: 3, Used: 4, Avail: 5}, a)
	off, size, data, err := msg(0, le32(0, 8, 0), le64(42)).Config()
	require.NoError(t, err)
	assert.Equal(t, []uint32{0, 8}, []uint32{off, size})
	assert.Equal(t, le64(42), data)
	rs, err := msg(2, le32(2, 0), le64(1, 2, 3, 4, 5, 6, 7, 8)).Regions()
	require.NoError(t, err)
	assert.Equal(t, []Region{{1, 2, 3, 4}, {5, 6, 7, 8}}, rs)
	rs, err = msg(0, le32(0, 0), make([]byte, 8*32)).Regions()
	require.NoError(t, err)
	assert.Empty(t, rs)

	m := msg(1, le64(1))
	i, fd, err := m.VringFD()
	require.NoError(t, err)
	assert.Equal(t, []int{1, 100}, []int{int(i), fd})
	assert.Empty(t, m.FDs, "taken over")
	i, fd, err = msg(0, le64(1<<8|1)).VringFD()
	require.NoError(t, err)
	assert.Equal(t, []int{1, -1}, []int{int(i), fd})

	for name, f := range map[string]func() error{
		"u64 short":         func() error { _, err := msg(0, le32(1)).U64(); return err },
		"u64 long":          func() error { _, err := msg(0, le64(1, 1)).U64(); return err },
		"state short":       func() error { _, _, err := msg(0, le32(1)).State(); return err },
		"addr short":        func() error { _, err := msg(0, le64(1, 2, 3, 4)).VringAddr(); return err },
		"config short":      func() error { _, _, _, err := msg(0, le64(1)).Config(); return err },
		"config lies":       func() error { _, _, _, err := msg(0, le32(0, 9, 0), le64(1)).Config(); return err },
		"config lies a lot": func() error { _, _, _, err := msg(0, le32(0, 0xffffffff, 0), le64(1)).Config(); return err },
		"regions short":     func() error { _, err := msg(0, le32(1)).Regions(); return err },
		"regions cut off":   func() error { _, err := msg(2, le32(2, 0), le64(1, 2, 3, 4)).Regions(); return err },
		"nine regions":      func() error { _, err := msg(9, le32(9, 0), make([]byte, 9*32)).Regions(); return err },
		"many regions":      func() error { _, err := msg(0, le32(0x08000001, 0), make([]byte, 32)).Regions(); return err },
		"regions without":   func() error { _, err := msg(0, le32(1, 0), make([]byte, 32)).Regions(); return err },
		"regions with more": func() error { _, err := msg(2, le32(1, 0), make([]byte, 32)).Regions(); return err },
		"fd missing":        func() error { _, _, err := msg(0, le64(1)).VringFD(); return err },
		"fd not announced":  func() error { _, _, err := msg(1, le64(1<<8)).VringFD(); return err },
		"two fds":           func() error { _, _, err := msg(2, le64(1)).VringFD(); return err },
		"fd short":          func() error { _, _, err := msg(1, le32(1)).VringFD(); return err },
	} {
		assert.ErrorIs(t, f(), ErrForm, name)
	}
}

func TestNames(t *testing.T) {
	assert.Equal(t, "SET_MEM_TABLE", SetMemTable.String())
	assert.Equal(t, "request 77", Type(77).String())
	assert.True(t, GetVringBase.Replies())
	assert.False(t, SetVringBase.Replies())
}

func FuzzMsg(f *testing.F) {
	f.Add(append(le32(uint32(SetMemTable), 9, 72), append(le32(2, 0), le64(1, 2, 3, 4, 5, 6, 7, 8)...)...), 2)
	f.Add(append(le32(uint32(GetConfig), 1, 20), append(le32(0, 8, 0), le64(42)...)...), 0)
	f.Add(append(le32(uint32(SetVringKick), 1, 8), le64(1)...), 1)
	f.Fuzz(func(t *testing.T, b []byte, fds int) {
		if len(b) < headerSize {
			return
		}
		m, n, err := parseHeader(b)
		if err != nil {
			require.ErrorIs(t, err, ErrForm)
			return
		}
		require.LessOrEqual(t, n, MaxPayload)
		if n > len(b)-headerSize {
			return
		}
		m.Payload = b[headerSize : headerSize+n]
		m.FDs = make([]int, min(max(fds, 0), MaxFDs))
		if rs, err := m.Regions(); err == nil {
			require.Len(t, m.FDs, len(rs))
		}
		if _, size, data, err := m.Config(); err == nil {
			require.Len(t, data, int(size))
		}
		_, _ = m.VringAddr()
		_, _, _ = m.State()
		_, _, _ = m.VringFD()
		require.NotEmpty(t, m.Type.String())
	})
}
