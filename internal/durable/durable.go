// Package durable is changes to files and directories that are made as a whole or
// not at all, also where the server or the host dies within one, and files that grow
// within bounds.
//
// The package imports renameio, golang.org/x/sys and internal/regular.
package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"

	"vmfs/internal/regular"
)

// Replace replaces the file as a whole or not at all, also over a crash.
func Replace(path string, data []byte) error {
	dir := filepath.Dir(path)
	err := renameio.WriteFile(path, data, 0o600, renameio.WithTempDir(dir), renameio.WithStaticPermissions(0o600))
	if err != nil {
		return err
	}
	return SyncDir(dir)
}

// SyncDir makes the names in a directory durable.
func SyncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// NewPrefix begins the name of what is being made, and delPrefix that of what is being
// removed. Nothing else that is kept has a name with a dot at its beginning.
const (
	NewPrefix = ".new-"
	delPrefix = ".del-"
)

// TakeAside takes a directory out of sight, and returns where it is now: the caller
// removes that with os.RemoveAll. After a crash between, ClearLeftovers does.
func TakeAside(dir string) (string, error) {
	parent, name := filepath.Split(dir)
	aside, err := os.MkdirTemp(parent, delPrefix+name+"-")
	if err != nil {
		return "", err
	}
	if err := os.Rename(dir, filepath.Join(aside, name)); err != nil {
		os.Remove(aside)
		return "", err
	}
	return aside, SyncDir(parent)
}

// ClearLeftovers removes what a crash left of makings and removals.
func ClearLeftovers(dir string) error {
	var errs []error
	for _, prefix := range []string{NewPrefix, delPrefix} {
		left, err := filepath.Glob(filepath.Join(dir, prefix+"*"))
		errs = append(errs, err)
		for _, l := range left {
			errs = append(errs, os.RemoveAll(l))
		}
	}
	return errors.Join(errs...)
}

// ClearTemporaries removes what a crash left of the replacing of files: they are
// written under a name that begins with a dot, as no other file does.
func ClearTemporaries(dir string) error {
	entries, err := os.ReadDir(dir)
	errs := []error{IgnoreMissing(err)}
	for _, e := range entries {
		if e.Type().IsRegular() && e.Name()[0] == '.' {
			errs = append(errs, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// IgnoreMissing returns nil for a file that is not there.
func IgnoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// KeepTail makes sure that a file is there, and cuts it to its last keep bytes where
// it is longer than most. It returns how many bytes went. Nobody else may be writing
// the file.
func KeepTail(path string, most, keep int64) (cut int64, err error) {
	f, err := regular.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil || fi.Size() <= most {
		return 0, err
	}
	tail := make([]byte, keep)
	cut = fi.Size() - keep
	if _, err := f.ReadAt(tail, cut); err != nil {
		return 0, err
	}
	if err := f.Truncate(0); err != nil {
		return 0, err
	}
	_, err = f.WriteAt(tail, 0)
	return cut, err
}
