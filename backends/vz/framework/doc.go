// Package framework is Apple's Virtualization.framework as an engine of a shim: all of
// vmfs that touches it, by the module github.com/Code-Hex/vz. Elsewhere than on a Mac, and
// in a program that was built without cgo, the engine says so and does nothing else.
//
// Nothing of engine_darwin.go can be run but on a Mac, so it decides nothing: what can
// fail, wait or be told wrong is in package shim, which is tested over an engine that is
// made for it. What the framework can do is asked of the framework, by trying what came
// with a version of macOS: a program that was built with the SDK of an older Xcode cannot
// do more than that one could, whatever runs it. A test of cmd/vmfs holds the types to vz;
// docs/mac-checklist.md is what remains.
//
// # What others have learned of it
//
//   - Caching: of a disk that is cached automatically Linux guests have seen damaged file
//     systems; vfkit and lima take cached, and fsync for a flush.
//   - Resume, pause and start return before the state is there.
//   - The file of a saved state must not exist. Only the host that saved it can read it, and
//     only for the same configuration: same machine identifier, same MAC addresses.
//   - ValidateSaveRestoreSupport of vz before macOS 14 does not return, it raises.
//   - A file handle is not duplicated by vz 3.7: the file must stay open as long as the VM.
//   - A listener of vz that is closed while a guest connects panics or blocks: a port that was
//     listened to once stays so, and hangs up when nobody listens.
//   - A stream of vz does not show its half-close; the connection in it has one.
//   - The balloon's target is all that the framework knows of a guest's memory.
//
// The package imports shim, shimconfig and vz.
package framework
