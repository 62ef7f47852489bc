// Package shim is the process that a VM of Virtualization.framework lives in, vz-shim,
// but for the framework itself: that is behind an [Engine], which the program gives it.
// So all of it but the engine runs, and is tested, on any system.
//
// The package imports the standard library, package shimconfig, and internal.
package shim
