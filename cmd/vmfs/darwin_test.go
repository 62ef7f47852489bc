package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A darwinPackage is one that a Mac would build with cgo.
type darwinPackage struct {
	ImportPath, Dir   string
	GoFiles, CgoFiles []string
	ImportMap         map[string]string
	Module            *struct {
		Main      bool
		GoVersion string
	}

	once    sync.Once
	checked *types.Package
	err     error
}

// darwinTypes checks types as the compiler of a Mac does, from the sources alone: cgo
// is not run, and whatever a file takes from package C has the type that it needs.
// Of others' packages the declarations are checked, of ours the functions too.
type darwinTypes struct {
	arch     string
	fset     *token.FileSet
	packages map[string]*darwinPackage
}

func newDarwinTypes(t *testing.T, arch string) *darwinTypes {
	d := &darwinTypes{arch: arch, fset: token.NewFileSet(), packages: map[string]*darwinPackage{}}
	list := goList(t, "darwin", arch, true, "-e", "-deps", "-json=ImportPath,Dir,GoFiles,CgoFiles,ImportMap,Module", "./...",
		// What the planted misuse imports, wherever else it is used.
		"github.com/Code-Hex/vz/v3")
	for dec := json.NewDecoder(strings.NewReader(string(list))); ; {
		p := new(darwinPackage)
		if err := dec.Decode(p); err != nil {
			require.ErrorIs(t, err, io.EOF)
			break
		}
		d.packages[p.ImportPath] = p
	}
	return d
}

func (p *darwinPackage) ours() bool { return p.Module != nil && p.Module.Main }

// imports is the importer of one package: the standard library has some vendored.
type imports struct {
	*darwinTypes
	by *darwinPackage
}

func (i imports) Import(path string) (*types.Package, error) {
	if path == "unsafe" {
		return types.Unsafe, nil
	}
	path = cmp.Or(i.by.ImportMap[path], path)
	p := i.packages[path]
	if p == nil {
		return nil, fmt.Errorf("no package %s", path)
	}
	p.once.Do(func() { p.checked, p.err = i.check(p, nil) })
	if p.ours() {
		return p.checked, nil // its errors are told of itself
	}
	return p.checked, p.err
}

// check returns the package's types and all that is wrong. Extra is another file's source.
func (d *darwinTypes) check(p *darwinPackage, extra any) (*types.Package, error) {
	var files []*ast.File
	var errs []error
	parse := func(name string, src any) {
		f, err := parser.ParseFile(d.fset, name, src, parser.SkipObjectResolution)
		if err != nil {
			errs = append(errs, err)
			return
		}
		files = append(files, f)
	}
	for _, name := range append(p.GoFiles, p.CgoFiles...) {
		if !filepath.IsAbs(name) {
			name = filepath.Join(p.Dir, name)
		}
		parse(name, nil)
	}
	if extra != nil {
		parse("extra.go", extra)
	}
	conf := types.Config{
		Importer:         imports{d, p},
		FakeImportC:      true,
		IgnoreFuncBodies: !p.ours(),
		Sizes:            types.SizesFor("gc", d.arch),
		Error:            func(err error) { errs = append(errs, err) },
	}
	if p.Module != nil && p.Module.GoVersion != "" {
		conf.GoVersion = "go" + p.Module.GoVersion
	}
	pkg, _ := conf.Check(p.ImportPath, d.fset, files, nil) // its error is the first of errs
	if !p.ours() {
		return pkg, nil // what of it we use, and is not there, is an error of ours
	}
	return pkg, errors.Join(errs...)
}

// TestDarwinTypes holds every file that a Mac builds with cgo, which nothing here can
// compile, to the modules that it uses. Tests are vetted as they are without cgo (make vet).
func TestDarwinTypes(t *testing.T) {
	for _, arch := range []string{"arm64", "amd64"} {
		t.Run(arch, func(t *testing.T) {
			t.Parallel()
			d := newDarwinTypes(t, arch)
			seen := map[string]bool{}
			for path, p := range d.packages {
				if !p.ours() {
					continue
				}
				_, _ = imports{d, p}.Import(path)
				for _, name := range append(p.GoFiles, p.CgoFiles...) {
					seen[filepath.Join(p.Dir, name)] = true
				}
				for _, err := range allErrors(p.err) {
					t.Error(err)
				}
			}
			for _, file := range darwinFiles(t, arch) {
				assert.True(t, seen[file], "%s is checked", file)
			}
			planted(t, d)

			// What the engine takes by its name, as no type shows it: the Unix socket
			// within a stream, which alone has a half-close.
			vz, err := imports{d, &darwinPackage{}}.Import("github.com/Code-Hex/vz/v3")
			require.NoError(t, err)
			field, _, _ := types.LookupFieldOrMethod(vz.Scope().Lookup("VirtioSocketConnection").Type(), true, vz, "rawConn")
			require.NotNil(t, field)
			assert.Equal(t, "net.Conn", field.Type().String())
		})
	}
}

// planted shows that misuse is found.
func planted(t *testing.T, d *darwinTypes) {
	user := &darwinPackage{ImportPath: "planted", Module: &struct {
		Main      bool
		GoVersion string
	}{Main: true}}
	for body, want := range map[string]string{
		`var _ bool = vm.CanPause()`:                                 "",
		`if err := vm.Pause(); err != nil { panic(err) }`:            "",
		`var _ string = vm.CanPause()`:                               "cannot use vm.CanPause() (value of type bool) as string value",
		`vm.Pause(1)`:                                                "too many arguments in call to vm.Pause",
		`vm.PauseNow()`:                                              "vm.PauseNow undefined",
		`vz.NewVirtualMachine(vm)`:                                   "cannot use vm",
		`ok := vm.CanPause()`:                                        "declared and not used: ok",
		`var _ vz.StorageDeviceAttachment = vm`:                      "vm (variable of type *vz.VirtualMachine) as vz.StorageDeviceAttachment",
		`_ = vz.DiskImageCachingMode(vz.DiskImageCachingModeDirect)`: "undefined: vz.DiskImageCachingModeDirect",
	} {
		_, err := d.check(user, "package planted\nimport \"github.com/Code-Hex/vz/v3\"\nfunc _(vm *vz.VirtualMachine) {\n"+body+"\n}\n")
		if want == "" {
			assert.NoError(t, err, body)
		} else {
			assert.ErrorContains(t, err, want, body)
		}
	}
}

// darwinFiles returns the files of the module that a Mac of the architecture builds, by
// their names and constraints alone, and without those of other programs: what the go
// tool lists is held to it.
func darwinFiles(t *testing.T, arch string) (files []string) {
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	mac := build.Default
	mac.GOOS, mac.GOARCH, mac.CgoEnabled = "darwin", arch, true
	plain := mac
	plain.CgoEnabled = false
	require.NoError(t, filepath.WalkDir(root, func(path string, e os.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir() && (e.Name() == "testdata" || strings.HasPrefix(e.Name(), ".") || path == filepath.Join(root, "build")):
			return filepath.SkipDir
		case !strings.HasSuffix(path, ".go"):
			return nil
		}
		match, err := mac.MatchFile(filepath.Split(path))
		if err != nil || !match {
			return err
		}
		if !strings.HasSuffix(path, "_test.go") {
			files = append(files, path)
		} else if match, err = plain.MatchFile(filepath.Split(path)); !match {
			t.Errorf("%s is a test for cgo alone, whose types nobody checks", path)
		}
		return err
	}))
	require.NotEmpty(t, files)
	return files
}

// allErrors takes errors that were joined apart.
func allErrors(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	if err == nil {
		return nil
	}
	return []error{err}
}
