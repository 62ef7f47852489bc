package guest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// otherArch is an architecture that is not this machine's.
var otherArch = map[string]string{"amd64": "arm64", "arm64": "amd64"}[runtime.GOARCH]

// TestForeignPackages has apt work for another architecture, on lists of its own.
func TestForeignPackages(t *testing.T) {
	did := filepath.Join(t.TempDir(), "did")
	cache := filepath.Join(t.TempDir(), "cache")
	o := &Options{Arch: otherArch, Cache: cache, Logf: t.Logf}
	conf := filepath.Join(cache, "apt-"+otherArch, "conf")
	tools := func(update string) {
		fakeTools(t, map[string]string{
			"apt-get":   `echo "apt-get $*" >>` + did + "\n" + update,
			"apt-cache": `echo "apt-cache $*" >>` + did + "\necho '  Depends: linux-image-1'",
		})
	}
	calls := func() []string {
		b, err := os.ReadFile(did)
		require.NoError(t, err)
		require.NoError(t, os.Remove(did))
		return strings.Split(strings.TrimSpace(string(b)), "\n")
	}
	tools("")
	a, err := o.apt(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []string{"apt-get -c " + conf + " update"}, calls())
	b, err := os.ReadFile(conf)
	require.NoError(t, err)
	assert.Contains(t, string(b), `APT::Architecture "`+otherArch+`";`)
	assert.Contains(t, string(b), `Dir::State "`+filepath.Join(cache, "apt-"+otherArch, "state")+`";`)
	assert.NotContains(t, string(b), "ARCH\"")

	_, _, err = a.resolve(t.Context(), "k")
	require.ErrorContains(t, err, "still a meta package")
	assert.Contains(t, calls()[0], "apt-cache -c "+conf+" depends ")

	// The lists are young.
	_, err = o.apt(t.Context())
	require.NoError(t, err)
	require.NoFileExists(t, did)

	// They are another release's.
	require.NoError(t, os.WriteFile(filepath.Join(cache, "apt-"+otherArch, "updated"), []byte("another"), 0o644))
	_, err = o.apt(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []string{"apt-get -c " + conf + " update"}, calls())

	// Old ones do where there is no network, and what they lack is told with why.
	old := time.Now().Add(-2 * listsAge)
	require.NoError(t, os.Chtimes(filepath.Join(cache, "apt-"+otherArch, "updated"), old, old))
	tools("echo 'E: no network' >&2; exit 100")
	a, err = o.apt(t.Context())
	require.NoError(t, err)
	_, err = a.fetch(t.Context(), "k")
	require.ErrorContains(t, err, "the package lists are not up to date: ")
	require.ErrorContains(t, err, "E: no network")
	assert.Len(t, calls(), 2)

	o.Cache = filepath.Join(t.TempDir(), `a "cache"`)
	_, err = o.apt(t.Context())
	require.ErrorContains(t, err, "use another directory")
	o.Cache = cache
	t.Setenv("PATH", t.TempDir())
	_, err = o.apt(t.Context())
	require.ErrorIs(t, err, exec.ErrNotFound)
	path, done, err := o.findBusybox(t.Context())
	require.NoError(t, err, "without apt there is an image without busybox")
	done()
	assert.Empty(t, path)
}

// TestForeignIsPrivate runs the real apt on a machine's sources that are no place,
// and finds nothing of the machine's changed.
func TestForeignIsPrivate(t *testing.T) {
	if _, err := exec.LookPath("apt-config"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("apt is not installed: apt-get install apt")
		}
		t.Skip("apt is not installed: apt-get install apt")
	}
	cache := filepath.Join(t.TempDir(), "cache")
	o := &Options{Arch: otherArch, Cache: cache, Logf: t.Logf}
	require.NoError(t, os.MkdirAll(filepath.Join(cache, "apt-"+otherArch), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(cache, "apt-"+otherArch, "updated"), release(), 0o644)) // nothing is fetched
	a, err := o.apt(t.Context())
	require.NoError(t, err)
	out, err := a.run(t.Context(), "", "apt-config", "shell",
		"lists", "Dir::State::lists/d", "status", "Dir::State::status/f", "archives", "Dir::Cache::archives/d",
		"arch", "APT::Architecture", "hook", "APT::Update::Post-Invoke-Success/Scripts")
	require.NoError(t, err)
	for line := range strings.Lines(string(out)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		value = strings.Trim(value, "'")
		if key == "arch" {
			assert.Equal(t, otherArch, value)
			continue
		}
		assert.True(t, strings.HasPrefix(value, cache+"/apt-"+otherArch+"/"), line)
	}
	assert.Equal(t, 4, strings.Count(string(out), "\n"), "no hooks: %s", out)
	_, err = a.run(t.Context(), "", "apt-cache", "depends", "linux-image-"+otherArch)
	require.ErrorContains(t, err, "linux-image-"+otherArch, "the lists are empty")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, os.Remove(filepath.Join(cache, "apt-"+otherArch, "updated")))
	_, err = o.apt(ctx)
	require.ErrorIs(t, err, context.Canceled)
}
