package guest

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestIsInit(t *testing.T) {
	assert.True(t, IsInit([]string{"/init"}, 1))
	assert.True(t, IsInit([]string{"/init", "splash"}, 1), "the kernel hands over words that it does not know")
	assert.False(t, IsInit([]string{"/init"}, 2))
	assert.False(t, IsInit([]string{"vmfs", "serve"}, 1), "vmfs as a container's process 1")
	assert.False(t, IsInit(nil, 1))
	assert.True(t, IsInit([]string{"vsock", "dial", "7"}, 99), "the guest's tool")
	assert.False(t, IsInit([]string{"vmfs", "vsock"}, 99))
}

// staticProgram is a small static program for Linux, built once.
var staticProgram string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "vmfs")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		src := filepath.Join(dir, "main.go")
		if err := os.WriteFile(src, []byte("package main\n\nfunc main() {}\n"), 0o644); err != nil {
			panic(err)
		}
		staticProgram = filepath.Join(dir, "agent")
		cmd := exec.Command("go", "build", "-o", staticProgram, src)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+runtime.GOARCH)
		if out, err := cmd.CombinedOutput(); err != nil {
			panic(string(out))
		}
		return m.Run()
	}())
}

// unpack returns an initrd's names, in order, and their content.
func unpack(t *testing.T, initrd string) (names []string, content map[string]string) {
	t.Helper()
	f, err := os.Open(initrd)
	require.NoError(t, err)
	defer f.Close()
	zr, err := gzip.NewReader(f)
	require.NoError(t, err)
	b, err := io.ReadAll(zr)
	require.NoError(t, err)
	content = map[string]string{}
	hex := func(at int) (v int) {
		for _, c := range string(b[at : at+8]) {
			v = v<<4 | strings.IndexRune("0123456789abcdef", c)
		}
		return v
	}
	for off := 0; ; {
		size, namesize := hex(off+54), hex(off+94)
		name := string(b[off+110 : off+110+namesize-1])
		data := (off + 110 + namesize + 3) &^ 3
		if name == "TRAILER!!!" {
			return names, content
		}
		names = append(names, name)
		content[name] = string(b[data : data+size])
		off = (data + size + 3) &^ 3
	}
}

type fixture struct {
	Options
	root string
}

func newFixture(t *testing.T) fixture {
	root := t.TempDir()
	mods := filepath.Join(root, "lib/modules/1.2.3-test")
	fakeTree(t, mods)
	writeFile(t, filepath.Join(root, "boot/vmlinuz-1.2.3-test"), []byte("a kernel"))
	return fixture{Options{
		Dir:     filepath.Join(root, "out"),
		Vmlinuz: filepath.Join(root, "boot/vmlinuz-1.2.3-test"),
		Modules: mods,
		Agent:   staticProgram,
		Busybox: NoBusybox,
		Cache:   filepath.Join(root, "cache"),
		Logf:    t.Logf,
	}, root}
}

func TestBuild(t *testing.T) {
	f := newFixture(t)
	o := f.Options
	host := filepath.Join(f.root, "hostfile")
	require.NoError(t, os.WriteFile(host, []byte("of the host"), 0o640))
	o.ExtraModules = []string{"d"}
	o.Script = []byte("#!/bin/sh\n")
	o.Files = []File{
		{Path: "/deep/in/here/x", Content: []byte("text")},
		{Path: "etc/passwd", Content: []byte("another")},
		{Path: "/h", Source: host},
		{Path: "/l", Link: "h"},
	}
	o.Busybox = o.Agent // any static program

	img, err := Build(t.Context(), o)
	require.NoError(t, err)
	assert.Equal(t, &Image{
		Kernel: filepath.Join(o.Dir, "vmlinuz"), Initrd: filepath.Join(o.Dir, "initrd"), Release: "1.2.3-test",
		Modules: []string{"a", "virtio_pci", "c", "b_dash", "d"},
	}, img, "button is built in, the other usual ones are not in this kernel")
	kernel, err := os.ReadFile(img.Kernel)
	require.NoError(t, err)
	assert.Equal(t, "a kernel", string(kernel))

	names, content := unpack(t, img.Initrd)
	at := map[string]int{}
	for i, name := range names {
		at[name] = i
		if dir := filepath.Dir(name); dir != "." {
			_, ok := at[dir]
			assert.True(t, ok, "%s comes before its directory", name)
		}
	}
	agent, err := os.ReadFile(o.Agent)
	require.NoError(t, err)
	assert.Equal(t, string(agent), content["init"])
	assert.Equal(t, "busybox", content["bin/sh"])
	assert.Equal(t, "text", content["deep/in/here/x"])
	assert.Equal(t, "another", content["etc/passwd"])
	assert.Equal(t, "of the host", content["h"])
	assert.Equal(t, "h", content["l"])
	assert.Equal(t, "#!/bin/sh\n", content["etc/vmfs/script"])
	assert.Equal(t, `/lib/modules/1.2.3-test/kernel/lib/a.ko
/lib/modules/1.2.3-test/kernel/drivers/virtio/virtio_pci.ko
/lib/modules/1.2.3-test/kernel/net/c.ko
/lib/modules/1.2.3-test/kernel/lib/b-dash.ko
/lib/modules/1.2.3-test/kernel/net/d.ko
`, content["etc/vmfs/modules"])
	for path := range strings.Lines(content["etc/vmfs/modules"]) {
		assert.Contains(t, content, strings.TrimSpace(path)[1:])
	}
	assert.NotContains(t, at, "lib/modules/1.2.3-test/kernel/net/soft.ko", "only what is needed")

	first, err := os.ReadFile(img.Initrd)
	require.NoError(t, err)
	t.Chdir(filepath.Dir(o.Dir))
	o.Dir = filepath.Base(o.Dir)
	again, err := Build(t.Context(), o)
	require.NoError(t, err)
	assert.Equal(t, img, again, "the paths are those of a configuration: absolute")
	second, err := os.ReadFile(img.Initrd)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(first, second), "the same inputs make the same bytes")
}

func TestBuildRefuses(t *testing.T) {
	f := newFixture(t)
	dynamic := ""
	if interp, err := os.Executable(); err == nil && checkStatic(interp, runtime.GOARCH) != nil {
		dynamic = interp // a test binary with cgo, as under -race
	}
	for _, tc := range []struct {
		name string
		edit func(*Options)
		says string
	}{
		{"no directory", func(o *Options) { o.Dir = "" }, "no directory"},
		{"no agent", func(o *Options) { o.Agent = "" }, "no agent"},
		{"agent missing", func(o *Options) { o.Agent = "/no/such" }, "no such file"},
		{"agent is a script", func(o *Options) { o.Agent = o.Vmlinuz }, "CGO_ENABLED=0"},
		{"agent for another machine", func(o *Options) { o.Arch = map[string]string{"amd64": "arm64", "arm64": "amd64"}[runtime.GOARCH] }, "the guest is"},
		{"busybox missing", func(o *Options) { o.Busybox = "/no/such" }, "busybox-static"},
		{"kernel missing", func(o *Options) { o.Vmlinuz = "/no/such" }, "/no/such"},
		{"kernel without modules", func(o *Options) { o.Modules = "" }, "both"},
		{"two kernels", func(o *Options) { o.Package = "linux-image" }, "one of them"},
		{"two packages", func(o *Options) { o.Vmlinuz, o.Modules, o.Package, o.Deb = "", "", "x", "y" }, "one of them"},
		{"package file missing", func(o *Options) { o.Vmlinuz, o.Modules, o.Deb = "", "", "/no/such.deb" }, "/no/such.deb"},
		{"module missing", func(o *Options) { o.ExtraModules = []string{"9p"} }, "module 9p is not in kernel 1.2.3-test"},
		{"replace init", func(o *Options) { o.Files = []File{{Path: "init"}} }, "/init is the agent"},
		{"no path", func(o *Options) { o.Files = []File{{Path: "/"}} }, "not a path"},
		{"directory in the way", func(o *Options) { o.Files = []File{{Path: "/etc"}} }, "directory"},
		{"below a file", func(o *Options) { o.Files = []File{{Path: "/etc/passwd/x"}} }, "not a directory"},
		{"source and content", func(o *Options) { o.Files = []File{{Path: "x", Source: "/x", Content: []byte("x")}} }, "more than one"},
		{"source missing", func(o *Options) { o.Files = []File{{Path: "x", Source: "/no/such"}} }, "/no/such"},
		{"source directory", func(o *Options) { o.Files = []File{{Path: "x", Source: "/"}} }, "not a regular file"},
		{"dynamic agent", func(o *Options) { o.Agent = dynamic }, "dynamic"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := f.Options
			tc.edit(&o)
			if tc.name == "dynamic agent" && dynamic == "" {
				t.Skip("this test binary is static; run with -race")
			}
			_, err := Build(t.Context(), o)
			require.ErrorContains(t, err, tc.says)
			assert.True(t, strings.HasPrefix(err.Error(), "guest: "), err.Error())
		})
	}
}

// A build that fails or is cancelled leaves the earlier image and no litter.
func TestBuildKeepsTheOld(t *testing.T) {
	o := newFixture(t).Options
	writeFile(t, filepath.Join(o.Dir, "vmlinuz"), []byte("old"))
	writeFile(t, filepath.Join(o.Dir, "initrd"), []byte("old"))
	ctx, cancel := context.WithCancel(t.Context())
	o.Logf = func(format string, args ...any) {
		if strings.HasPrefix(format, "writing") {
			cancel()
		}
	}
	_, err := Build(ctx, o)
	require.ErrorIs(t, err, context.Canceled)
	left, err := os.ReadDir(o.Dir)
	require.NoError(t, err)
	assert.Len(t, left, 2)
	for _, e := range left {
		b, err := os.ReadFile(filepath.Join(o.Dir, e.Name()))
		require.NoError(t, err)
		assert.Equal(t, "old", string(b))
	}
}

// needDpkg ends a test where packages cannot be made.
func needDpkg(t *testing.T) {
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("dpkg-deb is not installed: apt-get install dpkg")
		}
		t.Skip("dpkg-deb is not installed: apt-get install dpkg")
	}
}

// makeDeb makes dir/NAME.deb of what is in a directory.
func makeDeb(t *testing.T, dir, name, content string) (deb string) {
	t.Helper()
	writeFile(t, filepath.Join(content, "DEBIAN/control"), []byte("Package: k\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: x\n"))
	deb = filepath.Join(dir, name+".deb")
	out, err := exec.Command("dpkg-deb", "-Znone", "--build", content, deb).CombinedOutput()
	require.NoError(t, err, string(out))
	return deb
}

// A kernel package as Debian makes them, with and without merged /usr.
func TestBuildFromDeb(t *testing.T) {
	needDpkg(t)
	f := newFixture(t)
	for _, lib := range []string{"lib", "usr/lib"} {
		t.Run(lib, func(t *testing.T) {
			pkg := t.TempDir()
			fakeTree(t, filepath.Join(pkg, lib, "modules/1.2.3-test"))
			writeFile(t, filepath.Join(pkg, "boot/vmlinuz-1.2.3-test"), []byte("a kernel"))
			deb := makeDeb(t, t.TempDir(), "k", pkg)

			o := f.Options
			o.Vmlinuz, o.Modules, o.Deb = "", "", deb
			img, err := Build(t.Context(), o)
			require.NoError(t, err)
			assert.Equal(t, "1.2.3-test", img.Release)
			assert.Equal(t, []string{"a", "virtio_pci"}, img.Modules)
			left, err := os.ReadDir(o.Cache)
			require.NoError(t, err)
			assert.Empty(t, left, "what was unpacked is removed")
		})
	}
	t.Run("no kernel in it", func(t *testing.T) {
		o := f.Options
		o.Vmlinuz, o.Modules, o.Deb = "", "", makeDeb(t, t.TempDir(), "k", t.TempDir())
		_, err := Build(t.Context(), o)
		require.ErrorContains(t, err, "not a kernel package")
		left, err := os.ReadDir(o.Cache)
		require.NoError(t, err)
		assert.Empty(t, left)
	})
}

// A kernel as it is in Debian 14: its image, its modules and the list of what is
// built in are packages of their own.
func TestBuildFromParts(t *testing.T) {
	needDpkg(t)
	debs := t.TempDir()
	whole := filepath.Join(t.TempDir(), "1.2.3-test")
	fakeTree(t, whole)
	writeFile(t, filepath.Join(whole, "vmlinuz"), []byte("a kernel"))
	for name, file := range map[string]string{"base": "modules.builtin", "binary": "vmlinuz", "modules": "kernel"} {
		pkg := t.TempDir()
		dir := filepath.Join(pkg, "usr/lib/modules/1.2.3-test")
		require.NoError(t, os.MkdirAll(dir, 0o755))
		require.NoError(t, os.Rename(filepath.Join(whole, file), filepath.Join(dir, file)))
		makeDeb(t, debs, "linux-"+name+"-1.2.3-test", pkg)
	}
	fakeTools(t, map[string]string{
		"apt-cache": `case "$*" in
*linux-image-1.2.3-test) for p in base binary modules; do echo "  Depends: linux-$p-1.2.3-test"; done ;;
*) echo "  Depends: linux-image-1.2.3-test" ;;
esac`,
		"apt-get": `for name; do :; done
case "$*" in
*--print-uris*) echo "'http://x/$name.deb' $name.deb 1" ;;
*) cp ` + debs + `/$name.deb . ;;
esac`,
		"dpkg-deb": `exec dpkg-deb "$@"`,
	})
	o := newFixture(t).Options
	o.Vmlinuz, o.Modules, o.Package = "", "", "linux-image-test"
	name, err := o.ResolveKernel(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "linux-image-1.2.3-test", name)
	img, err := Build(t.Context(), o)
	require.NoError(t, err)
	assert.Equal(t, "1.2.3-test", img.Release)
	assert.Equal(t, []string{"a", "virtio_pci"}, img.Modules)
	b, err := os.ReadFile(img.Kernel)
	require.NoError(t, err)
	assert.Equal(t, "a kernel", string(b))
}

// Debian's busybox for a guest of another architecture, before and after /bin was
// merged into /usr/bin.
func TestDownloadBusybox(t *testing.T) {
	needDpkg(t)
	program, err := os.ReadFile(staticProgram)
	require.NoError(t, err)
	for _, place := range []string{"bin/busybox", "usr/bin/busybox"} {
		t.Run(place, func(t *testing.T) {
			pkg := t.TempDir()
			writeFile(t, filepath.Join(pkg, place), program)
			deb := makeDeb(t, t.TempDir(), "busybox-static", pkg)
			fakeTools(t, map[string]string{
				"apt-get": `case "$*" in
*--print-uris*) echo "'http://x/b.deb' b.deb 1" ;;
*) cp ` + deb + ` b.deb ;;
esac`,
				"dpkg-deb": `exec dpkg-deb "$@"`,
			})
			path, done, err := (&Options{Cache: t.TempDir(), Logf: t.Logf}).downloadBusybox(t.Context())
			require.NoError(t, err)
			require.NoError(t, checkStatic(path, runtime.GOARCH))
			done()
			assert.NoFileExists(t, path)
		})
	}
}
