package guest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestKernelDependencies(t *testing.T) {
	debian14, err := os.ReadFile("testdata/depends-debian14")
	require.NoError(t, err)
	for _, tc := range []struct {
		title, name, out, next string
		parts                  []string
		err                    string
	}{
		{
			title: "meta", name: "linux-image-cloud-amd64", next: "linux-image-6.1.0-1-cloud-amd64",
			out: "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-1-cloud-amd64\n",
		},
		{
			title: "meta of Debian 14", name: "linux-image-cloud-amd64", next: "linux-image-7.2.13+deb14-cloud-amd64",
			out: "linux-image-cloud-amd64\n  Depends: linux-base-cloud-amd64\n  Depends: linux-image-7.2.13+deb14-cloud-amd64\n",
		},
		{title: "alternatives", name: "m", out: "m\n |Depends: linux-image-1\n  Depends: linux-image-2\n", next: "linux-image-1"},
		{
			title: "kernel", name: "linux-image-6.1.0-1-amd64", parts: []string{"linux-image-6.1.0-1-amd64"},
			out: "linux-image-6.1.0-1-amd64\n  Depends: kmod\n  Depends: linux-base\n |Depends: initramfs-tools\n  Breaks: linux-image-x\n",
		},
		{
			title: "kernel of Debian 14", name: "linux-image-7.2.13+deb14-cloud-amd64", out: string(debian14),
			parts: []string{"linux-base-7.2.13+deb14-cloud-amd64", "linux-binary-7.2.13+deb14-cloud-amd64", "linux-modules-7.2.13+deb14-cloud-amd64"},
		},
		{title: "gone", name: "m", out: "m\n  Depends: <linux-image-9>\n", err: "do not have"},
		{title: "a part is gone", name: "linux-image-9", out: "linux-image-9\n  Depends: <linux-binary-9>\n", err: "linux-binary-9, which the package lists do not have"},
	} {
		t.Run(tc.title, func(t *testing.T) {
			next, parts, err := kernelDependencies(tc.name, []byte(tc.out))
			if tc.err != "" {
				require.ErrorContains(t, err, tc.err)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tc.next, next)
			assert.Equal(t, tc.parts, parts)
		})
	}
}

func TestParsePrintURIs(t *testing.T) {
	got, err := parsePrintURIs([]byte("'http://deb.example.org/p/l_1%7e2_amd64.deb' l_1~2_amd64.deb 1512 SHA256:ABcd\n"))
	require.NoError(t, err)
	assert.Equal(t, aptFile{"l_1~2_amd64.deb", "abcd"}, got)
	got, err = parsePrintURIs([]byte("'http://x/l.deb' l.deb 1 MD5Sum:00\n"))
	require.NoError(t, err)
	assert.Equal(t, aptFile{"l.deb", ""}, got)
	for _, bad := range []string{"", "nothing\n", "'http://x/y' ../../etc/x.deb 1 SHA256:00\n", "'http://x/y' passwd 1 SHA256:00\n"} {
		_, err := parsePrintURIs([]byte(bad))
		assert.Error(t, err, bad)
	}
}

// fakeTools puts programs of shell script into a directory that is then the
// whole of PATH, but for sh itself.
func fakeTools(t *testing.T, tools map[string]string) {
	t.Helper()
	bin := t.TempDir()
	for name, body := range tools {
		require.NoError(t, os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\nPATH=/usr/bin:/bin\n"+body), 0o755))
	}
	t.Setenv("PATH", bin)
}

func TestFetchPackage(t *testing.T) {
	content := "the package"
	sum := sha256.Sum256([]byte(content))
	count := filepath.Join(t.TempDir(), "downloads")
	fakeTools(t, map[string]string{"apt-get": fmt.Sprintf(`case "$*" in
*--print-uris*) echo "'http://x/k_1_amd64.deb' k_1_amd64.deb 11 SHA256:%s" ;;
*download*) printf '%%s' '%s' >k_1_amd64.deb; echo x >>%s ;;
esac`, hex.EncodeToString(sum[:]), content, count)})
	cache := filepath.Join(t.TempDir(), "cache")
	fetch := func() string {
		t.Helper()
		path, err := (&apt{cache: cache, logf: t.Logf}).fetch(t.Context(), "k")
		require.NoError(t, err)
		got, err := os.ReadFile(path)
		require.NoError(t, err)
		assert.Equal(t, content, string(got))
		return path
	}
	downloads := func() int { b, _ := os.ReadFile(count); return strings.Count(string(b), "x") }

	path := fetch()
	assert.Equal(t, 1, downloads())
	fetch()
	assert.Equal(t, 1, downloads(), "from the cache")
	require.NoError(t, os.WriteFile(path, []byte("damaged"), 0o644))
	fetch()
	assert.Equal(t, 2, downloads(), "a damaged file is fetched again")

	left, err := os.ReadDir(cache)
	require.NoError(t, err)
	assert.Len(t, left, 1, "the package alone: %v", left)
}

func TestFetchPackageErrors(t *testing.T) {
	t.Run("wrong sum", func(t *testing.T) {
		fakeTools(t, map[string]string{"apt-get": `case "$*" in
*--print-uris*) echo "'http://x/k.deb' k.deb 11 SHA256:00" ;;
*) echo bad >k.deb ;;
esac`})
		cache := t.TempDir()
		_, err := (&apt{cache: cache, logf: t.Logf}).fetch(t.Context(), "k")
		require.ErrorContains(t, err, "SHA-256")
		_, err = os.Stat(filepath.Join(cache, "k.deb"))
		assert.ErrorIs(t, err, os.ErrNotExist, "a bad file does not reach the cache")
	})
	t.Run("unknown package", func(t *testing.T) {
		fakeTools(t, map[string]string{
			"apt-get":   "echo 'E: No packages found' >&2; exit 100",
			"apt-cache": "echo 'E: No packages found' >&2; exit 100",
		})
		_, err := (&apt{cache: t.TempDir(), logf: t.Logf}).fetch(t.Context(), "k")
		require.ErrorContains(t, err, "E: No packages found")
		_, _, err = new(apt).resolve(t.Context(), "k")
		require.ErrorContains(t, err, "E: No packages found")
		assert.Contains(t, err.Error(), "apt-get update")
	})
	t.Run("no apt", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		_, _, err := new(apt).resolve(t.Context(), "k")
		require.ErrorIs(t, err, exec.ErrNotFound)
		assert.Contains(t, err.Error(), "apt-get install apt")
	})
	t.Run("endless meta package", func(t *testing.T) {
		fakeTools(t, map[string]string{"apt-cache": `echo "  Depends: linux-image-again"`})
		_, _, err := new(apt).resolve(t.Context(), "k")
		require.ErrorContains(t, err, "still a meta package")
	})
	t.Run("cancelled", func(t *testing.T) {
		fakeTools(t, map[string]string{"apt-get": "exec sleep 1000"})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := (&apt{cache: t.TempDir(), logf: t.Logf}).fetch(ctx, "k")
		require.ErrorIs(t, err, context.Canceled)
	})
}
