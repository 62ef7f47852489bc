package guest

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// ModuleError says that a kernel has no module of this name, neither as a file
// nor built in.
type ModuleError struct {
	Name    string
	Release string
}

func (e *ModuleError) Error() string {
	s := fmt.Sprintf("module %s is not in kernel %s", e.Name, e.Release)
	if strings.Contains(e.Release, "-cloud-") {
		s += " (Debian's cloud kernels leave much out: try the package without -cloud-)"
	}
	return s
}

// moduleTree is a directory lib/modules/RELEASE.
type moduleTree struct {
	dir     string
	release string
	files   map[string]string // name -> path below dir
	builtin map[string]bool
}

// module is a module to be put into an image.
type module struct {
	name string
	path string // below lib/modules/RELEASE, without the compression's suffix
	data []byte
}

var errCircle = errors.New("depends on itself")

func openModuleTree(dir string) (*moduleTree, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("guest: modules: %w", err)
	}
	t := &moduleTree{dir: abs, release: filepath.Base(abs), files: map[string]string{}, builtin: map[string]bool{}}
	err = filepath.WalkDir(filepath.Join(abs, "kernel"), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if base := d.Name(); !d.IsDir() && strings.Contains(base, ".ko") {
			rel, err := filepath.Rel(abs, path)
			if err != nil {
				return err
			}
			t.files[moduleName(base)] = rel
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("guest: modules: %w (wanted: a directory lib/modules/RELEASE with kernel/ in it)", err)
	}
	f, err := os.Open(filepath.Join(abs, "modules.builtin"))
	if errors.Is(err, fs.ErrNotExist) {
		return t, nil
	}
	if err != nil {
		return nil, fmt.Errorf("guest: modules: %w", err)
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		t.builtin[moduleName(sc.Text())] = true
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("guest: modules: %s: %w", f.Name(), err)
	}
	return t, nil
}

// has reports whether the kernel has the module, in either form.
func (t *moduleTree) has(name string) bool {
	name = moduleName(name)
	return t.builtin[name] || t.files[name] != ""
}

// closure returns the modules with all that they depend on, in an order in which
// they can be loaded. What is built in needs nothing and is not in the result.
// The order depends on the order of names alone.
func (t *moduleTree) closure(names []string) ([]module, error) {
	var out []module
	const visiting, done = 1, 2
	seen := map[string]int{}
	var visit func(name string) error
	visit = func(name string) (err error) {
		path, isFile := t.files[name]
		if !isFile && t.builtin[name] {
			return nil
		}
		if !isFile {
			return &ModuleError{name, t.release}
		}
		switch seen[name] {
		case done:
			return nil
		case visiting:
			return fmt.Errorf("module %s %w", name, errCircle)
		}
		seen[name] = visiting
		defer func() {
			if err != nil {
				delete(seen, name)
			}
		}()
		data, err := readModule(filepath.Join(t.dir, path))
		if err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
		mi, err := parseModinfo(data)
		if err != nil {
			return fmt.Errorf("module %s: %s: %w", name, path, err)
		}
		for _, soft := range mi.softdep {
			if t.files[soft] == "" {
				continue
			}
			// In a circle with a hard dependency the soft one gives way.
			if err := visit(soft); err != nil && !errors.Is(err, errCircle) {
				return fmt.Errorf("%w (wanted by %s)", err, name)
			}
		}
		for _, dep := range mi.depends {
			if err := visit(dep); err != nil {
				return fmt.Errorf("%w (needed by %s)", err, name)
			}
		}
		seen[name] = done
		stem, _, _ := strings.Cut(path, ".ko")
		out = append(out, module{name, stem + ".ko", data})
		return nil
	}
	for _, name := range names {
		if err := visit(moduleName(name)); err != nil {
			return nil, fmt.Errorf("guest: %w", err)
		}
	}
	return out, nil
}
