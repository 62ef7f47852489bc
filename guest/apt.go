package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"vmfs/internal/flock"
)

// An apt finds and downloads packages of one architecture. For that of this
// machine it uses the machine's package lists, for another lists of its own:
// nothing of the machine's is changed, dpkg need not know the architecture, and
// root is not needed.
type apt struct {
	cache string // where downloads are kept
	logf  func(format string, args ...any)
	conf  string // the file that makes apt one of another architecture; "" is this machine's
	stale error  // why the lists of another architecture could not be brought up to date
}

// foreign tells whether the guest's architecture is not this machine's.
func (o *Options) foreign() bool { return o.arch() != runtime.GOARCH }

// apt returns the apt for the guest's architecture, with its lists up to date.
func (o *Options) apt(ctx context.Context) (*apt, error) {
	cache, err := o.cacheDir()
	if err != nil {
		return nil, err
	}
	a := &apt{cache: cache, logf: o.logf}
	if !o.foreign() {
		return a, nil
	}
	if err := a.goForeign(ctx, o.arch()); err != nil {
		return nil, fmt.Errorf("guest: package lists of %s: %w", o.arch(), err)
	}
	return a, nil
}

// foreignConf is apt's configuration. It is read after the machine's own, of which
// it keeps where packages come from, and which keys they are signed with; hooks of
// the machine's are none of its business.
const foreignConf = `#clear APT::Update;
#clear APT::Architectures;
APT::Architecture "ARCH";
APT::Architectures { "ARCH"; };
APT::Sandbox::User "root";
Dir::State "DIR/state";
Dir::State::lists "lists";
Dir::State::status "DIR/status";
Dir::Cache "DIR/cache";
Acquire::Languages "none";
Acquire::PDiffs "false";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
`

// listsAge is how old lists may be. Old ones name packages that are there no more;
// asking whether there are new ones takes a second.
const listsAge = time.Hour

// goForeign makes a's an apt of the architecture arch.
func (a *apt) goForeign(ctx context.Context, arch string) error {
	if _, err := exec.LookPath("apt-get"); err != nil {
		_, err = a.run(ctx, "", "apt-get") // for its words
		return err
	}
	dir := filepath.Join(a.cache, "apt-"+arch)
	if strings.ContainsAny(dir, "\"\n\\") {
		return fmt.Errorf("the cache's path %q has characters that apt's configuration cannot hold: use another directory", dir)
	}
	lock, err := flock.MakeDir(ctx, dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	for _, sub := range []string{"state/lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return err
		}
	}
	conf := filepath.Join(dir, "conf")
	text := strings.NewReplacer("ARCH", arch, "DIR", dir).Replace(foreignConf)
	for path, content := range map[string]string{conf: text, filepath.Join(dir, "status"): ""} {
		if err := renameio.WriteFile(path, []byte(content), 0o644); err != nil {
			return err
		}
	}
	a.conf = conf
	stamp, of := filepath.Join(dir, "updated"), release()
	if fi, err := os.Stat(stamp); err == nil && time.Since(fi.ModTime()) < listsAge {
		if b, err := os.ReadFile(stamp); err == nil && bytes.Equal(b, of) {
			return nil
		}
	}
	a.logf("fetching the package lists of %s", arch)
	if _, err := a.run(ctx, "", "apt-get", "update"); err != nil {
		if ctx.Err() != nil {
			return err
		}
		// Those of an earlier day may do: what cannot be found says more.
		a.stale = err
		return nil
	}
	return os.WriteFile(stamp, of, 0o644)
}

// release tells which system's lists they are: several may share a cache, one after the
// other, as a machine does with the root file systems of other releases on it.
func release() []byte {
	b, _ := os.ReadFile("/etc/os-release") // without it there is one system
	return b
}

// run runs one of apt's programs.
func (a *apt) run(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	if a.conf != "" {
		args = append([]string{"-c", a.conf}, args...)
	}
	out, err := runTool(ctx, dir, name, args...)
	switch {
	case err == nil, errors.Is(err, exec.ErrNotFound), ctx.Err() != nil:
	case a.stale != nil:
		err = fmt.Errorf("%w; and the package lists are not up to date: %w", err, a.stale)
	case a.conf == "":
		err = fmt.Errorf("%w (`apt-get update` fetches the package lists)", err)
	}
	return out, err
}
