package chtest

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"vmfs/backends/cloudhypervisor"
	"vmfs/guest/guesttest"
)

// recordingFile is what the real one said. `make record-cloud-hypervisor` makes it.
const recordingFile = "testdata/exchanges.json"

var record = flag.String("record", "", "write what the real Cloud Hypervisor says to this file")

func readRecording(t *testing.T) (r recording) {
	b, err := os.ReadFile(recordingFile)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &r))
	return r
}

// format is the recording's file: an exchange is a line, so that one sees what has changed.
func (r recording) format(t *testing.T) []byte {
	line := func(v any) []byte {
		b, err := json.Marshal(v)
		require.NoError(t, err)
		return b
	}
	b := fmt.Appendf(nil, "{\"version\": %s, \"scenes\": [", line(r.Version))
	for i, s := range r.Scenes {
		b = fmt.Appendf(b, "%s{\n\"name\": %s,\n\"exchanges\": [", comma(i), line(s.Name))
		for i, e := range s.Exchanges {
			b = fmt.Appendf(b, "%s\n\t%s", comma(i), line(e))
		}
		b = fmt.Appendf(b, "\n],\n\"events\": %s}", line(s.Events))
	}
	return append(b, "]}\n"...)
}

func comma(i int) string {
	if i == 0 {
		return ""
	}
	return ","
}

// TestFakeExchanges holds the fake to what the real one said.
func TestFakeExchanges(t *testing.T) {
	dir := t.TempDir()
	kernel, initrd := filepath.Join(dir, "kernel"), filepath.Join(dir, "initrd")
	for _, file := range []string{kernel, initrd} {
		require.NoError(t, os.WriteFile(file, []byte("\x7fELF"), 0o600))
	}
	compare(t, readRecording(t), play(t, Program(t, Config{}), kernel, initrd))
}

// TestRealExchanges holds the recording to the real one, so that it is true and the fake with it.
func TestRealExchanges(t *testing.T) {
	s := cloudhypervisor.New(cloudhypervisor.Config{})
	NeedReal(t, func() (string, error) { return s.GetVersion(nil) })
	program, err := s.GetBinaryPath(nil, "")
	require.NoError(t, err)
	kernel, initrd := guesttest.Image(t)
	got := play(t, program, kernel, initrd)
	if *record != "" {
		require.NoError(t, os.WriteFile(*record, got.format(t), 0o644))
		return
	}
	want := readRecording(t)
	if got.Version != want.Version {
		t.Logf("this is Cloud Hypervisor %s, which may say other things than %s, whose recording is kept", got.Version, want.Version)
		return
	}
	compare(t, want, got)
}

// TestRealIsNeeded: a Cloud Hypervisor that is named and is none is no reason to skip.
func TestRealIsNeeded(t *testing.T) { CheckNeed(t, "TestRealExchanges") }
